"""Train one model, or with ``-m`` several. ``--help`` lists every setting."""

import contextlib
import logging
import os
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lstm_lm.config import RunConfig

ConfigStore.instance().store(name="schema", node=RunConfig)


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(composed: DictConfig) -> None:
    config = OmegaConf.to_object(composed)
    from lstm_lm.experiment import train
    print(train(config, Path(HydraConfig.get().runtime.output_dir)))

logging.basicConfig(level=logging.INFO, format="%(message)s")
os.environ["HYDRA_FULL_ERROR"] = "1"
main()
