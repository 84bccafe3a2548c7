"""The real Razorpay behind `gateway.Gateway`: the official SDK, wrapped so that nothing of it shows."""
