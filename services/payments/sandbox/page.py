"""The hosted payment page of a link, as one HTML document without scripts. Pure."""

from __future__ import annotations

from decimal import Decimal
from html import escape

from services.payments.sandbox.objects import Entity, link_is_open

# The page runs nothing and loads nothing.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
EXPONENTS = {"JPY": 0, "KWD": 3}  # others have two decimals
SYMBOLS = {"INR": "₹", "USD": "$", "EUR": "€", "GBP": "£"}

STYLE = """
:root{color-scheme:light dark;--ink:#14213a;--soft:#5b6880;--line:#dde3ec;--card:#fff;--back:#eef2f8;--accent:#1f5fe0;
--accent-ink:#fff;--good:#137a4b;--good-back:#e4f5ec;--bad:#a8322a;--bad-back:#fbeae8;--still:#5b6880;
--still-back:#eceff4;--note:#7a5200;--note-back:#fdf3dc}
@media(prefers-color-scheme:dark){:root{--ink:#e8edf6;--soft:#a3afc3;--line:#33405a;--card:#18233a;--back:#0e1626;
--accent:#5b8cff;--accent-ink:#0b1430;--good:#7fdcae;--good-back:#12382a;--bad:#ffaaa2;--bad-back:#45201e;
--still:#b7c1d2;--still-back:#27334b;--note:#ffd98a;--note-back:#3d3010}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:24px 16px;background:var(--back);
color:var(--ink);font:16px/1.5 system-ui,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main{width:100%;max-width:420px;background:var(--card);border:1px solid var(--line);border-radius:14px;overflow:hidden;
box-shadow:0 8px 30px rgb(20 33 58/.08)}
header{display:flex;justify-content:space-between;align-items:center;gap:12px;padding:18px 24px;
border-bottom:1px solid var(--line)}
header strong{font-size:15px}
.mode{font-size:12px;font-weight:600;color:var(--note);background:var(--note-back);border-radius:99px;padding:3px 10px;
white-space:nowrap}
section{padding:24px}
.what{margin:0;color:var(--soft);overflow-wrap:anywhere}
h1{margin:4px 0 0;font-size:36px;line-height:1.15;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.sub{margin:4px 0 0;color:var(--soft);font-size:14px}
dl{margin:20px 0 0;padding:14px 0 0;border-top:1px solid var(--line);display:grid;grid-template-columns:auto 1fr;
gap:6px 16px;font-size:14px}
dt{color:var(--soft)}
dd{margin:0;text-align:right;overflow-wrap:anywhere}
form{margin-top:24px;display:grid;gap:8px}
label{font-size:14px;font-weight:600}
input{width:100%;font:inherit;color:inherit;background:transparent;border:1px solid var(--soft);border-radius:8px;
padding:11px 12px}
button{margin-top:8px;font:inherit;font-weight:600;color:var(--accent-ink);background:var(--accent);border:0;
border-radius:8px;padding:12px;cursor:pointer}
button:hover{filter:brightness(1.08)}
input:focus-visible,button:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
.hint{margin:0;color:var(--soft);font-size:13px}
code{font:13px ui-monospace,"Liberation Mono",monospace}
.state{margin:24px 0 0;border-radius:8px;padding:12px 14px;font-weight:600}
.state small{display:block;font-size:13px;font-weight:400;overflow-wrap:anywhere}
.good{color:var(--good);background:var(--good-back)}
.bad{color:var(--bad);background:var(--bad-back)}
.still{color:var(--still);background:var(--still-back)}
footer{padding:12px 24px 16px;color:var(--soft);font-size:12px;border-top:1px solid var(--line)}
"""


def money(amount: int, currency: str) -> str:
    """Minor units for people: rupees with lakh and crore commas, other currencies by thousands."""
    exponent = EXPONENTS.get(currency, 2)
    text = f"{Decimal(amount).scaleb(-exponent):.{exponent}f}"
    whole, _, fraction = text.partition(".")
    symbol = SYMBOLS.get(currency, currency + " ")
    return symbol + _grouped(whole, 2 if currency == "INR" else 3) + (f".{fraction}" if fraction else "")


def _grouped(digits: str, size: int) -> str:
    """Commas before the last three digits and then every `size`."""
    head, groups = digits[:-3], [digits[-3:]]
    while head:
        groups.insert(0, head[-size:])
        head = head[:-size]
    return ",".join(groups)


def link_page(link: Entity, *, merchant: str, problem: str | None = None) -> str:
    """The page of a link in its present state. `problem` says why the last attempt did not pay it."""
    due = link["amount"] - link["amount_paid"]
    shown = due if link["status"] == "partially_paid" else link["amount"]
    part = f'<p class="sub">left of {money(link["amount"], link["currency"])}</p>' if shown != link["amount"] else ""
    rows = [("Reference", link["reference_id"]), ("Billed to", (link["customer"] or {}).get("name") or "")]
    details = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in rows if value)
    return _document(
        title=f"Pay {merchant}",
        merchant=merchant,
        body=(
            f'<p class="what">{escape(link["description"] or "Payment request")}</p>'
            f"<h1>{money(shown, link['currency'])}</h1>{part}"
            + (f"<dl>{details}</dl>" if details else "")
            + (_problem(problem) if problem else "")
            + (_form(link, due) if link_is_open(link) else _closed(link))
        ),
    )


def missing_page(merchant: str) -> str:
    """The page for a link that does not exist."""
    text = '<p class="state still">This payment link does not exist.<small>Check the address you were sent.</small></p>'
    return _document(title="Payment link not found", merchant=merchant, body=text)


def _form(link: Entity, due: int) -> str:
    part = ""
    if link["accept_partial"]:
        part = (
            '<label for="amount">Amount in minor units</label>'
            f'<input id="amount" name="amount" inputmode="numeric" pattern="[0-9]+" value="{due}" required>'
        )
    return (
        f'<form method="post" action="/l/{escape(link["id"])}/pay">{part}'
        '<label for="vpa">UPI ID</label>'
        '<input id="vpa" name="vpa" value="success@razorpay" autocomplete="off" autocapitalize="none" '
        'spellcheck="false" aria-describedby="hint" required>'
        '<p class="hint" id="hint">Test instruments: <code>success@razorpay</code> pays, '
        "<code>failure@razorpay</code> is declined.</p>"
        f"<button>Pay {'' if link['accept_partial'] else money(due, link['currency'])}</button></form>"
    )


def _problem(problem: str) -> str:
    return f'<p class="state bad" role="alert">The payment did not go through<small>{escape(problem)}</small></p>'


def _closed(link: Entity) -> str:
    if link["status"] == "paid":
        last = escape(link["payments"][-1]["payment_id"])
        return f'<p class="state good" role="status">Paid<small>Payment {last}</small></p>'
    if link["status"] == "expired":
        return '<p class="state still">This link has expired<small>Ask for a new one to pay.</small></p>'
    return '<p class="state still">This link was cancelled<small>Nothing is to be paid here.</small></p>'


def _document(*, title: str, merchant: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<header><strong>{escape(merchant)}</strong><span class="mode">Test mode</span></header>'
        f"<section>{body}</section>"
        "<footer>Stand-in for Razorpay. No money moves.</footer></main></body></html>"
    )
