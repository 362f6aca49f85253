"""What a request came across in folders and archives and did not read, by the reason."""

from __future__ import annotations

from lmhead.formats import count

EXAMPLES = 3


class PassedOver:
    """Names by reason; a name counts once, however often the files are read."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, None]] = {}

    def add(self, reason: str, name: str) -> None:
        self._names.setdefault(reason, {})[name] = None

    def update(self, other: PassedOver) -> None:
        for reason, names in other._names.items():
            self._names.setdefault(reason, {}).update(names)

    def __bool__(self) -> bool:
        return bool(self._names)

    def __str__(self) -> str:
        total = sum(map(len, self._names.values()))
        return f"passed over {count(total, 'file')}: {'; '.join(map(self._reason, self._names))}"

    def _reason(self, reason: str) -> str:
        names = list(self._names[reason])
        more = ", ..." if len(names) > EXAMPLES else ""
        return f"{len(names):,} {reason} ({', '.join(names[:EXAMPLES])}{more})"
