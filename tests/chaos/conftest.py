from tests.support.faults import broker, on_broker
from tests.support.product import product

__all__ = ["broker", "on_broker", "product"]
