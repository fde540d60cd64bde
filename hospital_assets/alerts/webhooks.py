"""A message to a webhook, for alerts and anchors of the audit. Addresses are secrets: no error quotes one."""

from __future__ import annotations

from collections.abc import Mapping


def post_json(address: str, text: str, headers: Mapping[str, str] | None = None, *, seconds: float = 5.0) -> None:
    """Send JSON; redirects are not followed: what is sent to one receiver is not for another.

    Raises:
        OSError: it did not arrive; the message says why and names no address.
    """
    import requests

    try:
        answer = requests.post(
            address,
            data=text.encode(),
            headers={"content-type": "application/json", **(headers or {})},
            timeout=seconds,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        raise OSError(f"it cannot be reached ({type(error).__name__})") from None
    if not 200 <= answer.status_code < 300:
        moved = "; redirects are not followed" if 300 <= answer.status_code < 400 else ""
        raise OSError(f"it answered {answer.status_code}{moved}")
