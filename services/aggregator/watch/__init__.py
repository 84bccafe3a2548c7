"""Watch: what is unusual about a key. A process of its own, the only one with Faust: advice, never money."""
