"""Pipelines over REST: register, deploy, report what failed, retire; and see which version of each runs."""

from api.routing import ContextRouter
from commands.pipelines import DeployVersion, RegisterPipeline, ReportFailure, RetirePipeline
from domain.values import EVERYBODY
from projections.pipelines import pipelines, versions

router = ContextRouter(tags=["pipelines"])
router.command("/v1/pipelines", RegisterPipeline, status=201)
router.command("/v1/pipelines/{pipeline_id}/deploy", DeployVersion, status=201)
router.command("/v1/pipelines/{pipeline_id}/failures", ReportFailure, status=201)
router.command("/v1/pipelines/{pipeline_id}/retire", RetirePipeline)
router.views("/v1/pipelines", pipelines, row_id="pipeline_id", roles=EVERYBODY, stream="pipeline:{}".format)
router.views("/v1/pipeline-versions", versions, row_id="version_id", roles=EVERYBODY)
