"""A stand-in Razorpay: its HTTP API, hosted payment page and signed webhooks, over a durable ledger of its own.

It imports nothing of the product it serves, so that tests may use its ledger as the oracle."""
