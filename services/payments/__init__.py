"""Payments: collect invoices through Razorpay and credit what was paid, once.

Two processes: `receiver` takes webhooks and does nothing else; `payments` asks for links and applies what the
webhooks say. `sandbox` is a stand-in Razorpay for machines without an account; it and the rest never import
each other."""
