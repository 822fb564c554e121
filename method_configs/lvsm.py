"""The method `lvsm`."""

from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.types import MethodSpecification

from fm3d_plugins.lvsm.datamanager import LvsmDataManagerConfig
from fm3d_plugins.lvsm.model import LvsmModelConfig
from fm3d_plugins.lvsm.pipeline import LvsmPipelineConfig
from fm3d_plugins.one_pass.trainer import TuningTrainerConfig
from fm3d_plugins.one_pass.views.optimizer import MatrixAdamWConfig, WarmUpCosineConfig
from fm3d_plugins.training import ViewerConfig

method = MethodSpecification(
    config=TuningTrainerConfig(
        method_name="lvsm",
        pipeline=LvsmPipelineConfig(
            datamanager=LvsmDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(eval_mode="interval"),
                cache_images_type="uint8",
            ),
            model=LvsmModelConfig(),
        ),
        optimizers={
            "network": {"optimizer": MatrixAdamWConfig(), "scheduler": WarmUpCosineConfig()}
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="LVSM: new views from posed photos by a network, without a 3D representation.",
)
