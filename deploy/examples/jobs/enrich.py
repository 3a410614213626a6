"""One job as a command: its input comes as JSON on standard input, what is printed is its result."""

import json
import sys
import time

order = json.load(sys.stdin)
for _ in range(int(order.get("steps", 1))):
    time.sleep(1)
print(json.dumps({"customer": order["customer"], "name": f"Customer {order['customer']}"}))
