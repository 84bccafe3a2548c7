"""Double entry: the chart of accounts, what each fact posts (pure), and the store that keeps it.

Invoicer and payments write through it, each for its own facts. Amounts are minor units, debit positive.
"""
