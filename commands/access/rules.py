"""What holds of every change to an actor."""

from domain.kernel import Asked, require


def not_oneself(actor_id: str, asked: Asked, code: str, message: str) -> None:
    require(asked.by.actor != actor_id, code, message, field="actor_id", remedy="Ask another administrator.")
