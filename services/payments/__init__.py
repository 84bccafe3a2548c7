"""Payments: collect invoices through Razorpay, take its webhooks, reconcile both ledgers.

`sandbox` is a stand-in Razorpay for machines without an account; it and the rest never import each other."""
