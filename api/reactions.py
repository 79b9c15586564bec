"""What Aureus does by itself, over REST: the sagas and their steps, and the dead letters, to be replayed or discarded."""

from api.routing import ContextRouter
from commands.reactions import DiscardDeadLetter, ReplayDeadLetter
from domain.values import PEOPLE
from projections.reactions import dead_letters, sagas

router = ContextRouter(prefix="/v1", tags=["reactions"])
router.command("/dead-letters/{letter_id}/replay", ReplayDeadLetter)
router.command("/dead-letters/{letter_id}/discard", DiscardDeadLetter)
router.views("/dead-letters", dead_letters, row_id="letter_id", roles=PEOPLE, stream="deadletter:{}".format)
router.views("/sagas", sagas, row_id="saga_id", roles=PEOPLE, stream="saga:{}".format)
