"""Train twenty recipes from all over the catalogue and print the digest of each one's weights.

Run it before and after a change that must not change what is trained, on the same machine, and
compare: `python scripts/weight_digests.py > before.txt`. The recipes use data that ships with the
package, so nothing is downloaded. `--package DIR` measures another checkout.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPES = (
    "",
    "activation=elu optim=adam schedule=warmup_cosine",
    "activation=maxout norm=batch optim=momentum average.ema=0.99 model.dropout=0.2",
    "activation=prelu init=lsuv norm=layer optim=nadam schedule=one_cycle clip.norm=1",
    "activation=tanh init=xavier_uniform norm=weight optim=nesterov penalty.l1=1e-4",
    "activation=rrelu init=orthogonal optim=rmsprop schedule=cyclic clip.adaptive=0.02",
    "activation=gelu norm=rms norm.place=after optim=adamw schedule=warmup_stable_decay",
    "activation=selu init=lecun_normal optim=sgd constraint.max_norm=3 clip.value=0.5",
    "model=cnn norm=batch augment=[shift,rotate] optim=adam",
    "model=cnn norm=group activation=silu augment=[mixup] optim=radam accumulate=2",
    "model=vgg_small activation=tanh optim=adagrad data.label_noise=0.2",
    "model=resnet20 norm=batch optim=momentum groups.layer_decay=0.8 average.swa=0.5",
    "model=residual_mlp norm=layer activation=mish optim=lars schedule=polynomial",
    "model=mlp optim=muon groups.freeze=['hidden1*'] schedule=inverse_sqrt",
    "model=mlp optim=lbfgs batch_size=full penalty.l2=1e-3",
    "model=linear loss=hinge optim=sgd preprocess=pca data=wine batch_size=16",
    "data=spirals activation=softsign loss=focal optim=annealed_noise schedule=step",
    "data=breast_cancer preprocess=whiten loss=mse optim=adadelta data.imbalance=0.5",
    "fault=loop_no_zero_grad",
    "norm=instance model=cnn loss=squared_hinge precision=bf16 optim=adamax",
)


def digest(recipe: str, package: Path, steps: int) -> str:
    """SHA-256 of the best weights of one run, or the last line of what was refused."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*recipe.split(), f"max_steps={steps}", "quiet=true", "hydra.run.dir=run"]
        done = subprocess.run(
            [sys.executable, "-m", "trainlab", *words],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(package)},
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
        return json.loads(Path(folder, "run", "summary.json").read_text())["weights_sha256"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--steps", type=int, default=150)
    asked = parser.parse_args()
    for recipe in RECIPES:
        print(
            digest(recipe, asked.package.resolve(), asked.steps), recipe or "defaults", flush=True
        )
