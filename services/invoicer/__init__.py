"""From sealed usage to finalized invoices. `pricing`, `tax` and `totals` are pure; the edges read, call them, write."""
