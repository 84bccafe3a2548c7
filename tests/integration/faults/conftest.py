from tests.support.faults import broker, on_broker

__all__ = ["broker", "on_broker"]
