"""`sbert-ft pretrain`: masked tokens, and next sentences, on raw texts: a JSON in, a BERT folder and a report out."""

from __future__ import annotations

import argparse

from sbert_ft.commands import train

_EPILOG = """\
examples:
  sbert-ft vocab reviews.txt -o bert-ko --size 8000 --layers 4 --hidden 256
  sbert-ft pretrain pretrain.json
  sbert-ft pretrain pretrain.json --set training.epochs=5 --resume

pretrain.json, for random weights (leave init out to go on from the folder's):
  {"model": {"path": "bert-ko", "init": "random", "max_seq_length": 64},
   "data": {"train": "reviews.txt", "dev_share": 0.01},
   "objective": {"name": "mlm", "whole_words": true},
   "training": {"epochs": 10, "batch_size": 128, "learning_rate": 5e-4},
   "output_dir": "runs/pretrain"}

The file is that of sbert-ft train with model.kind masked_lm, which is the default here; "objective": ["mlm", "nsp"]
adds next-sentence prediction, for texts in documents. The run's folder is that of sbert-ft train, too; its model/ is
where fine-tuning on pairs starts, and loads in transformers as BertForMaskedLM or BertForPreTraining."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    train.add_arguments(parser)
    parser.epilog = _EPILOG


def run(args: argparse.Namespace) -> int:
    """Run the pre-training, or print its plan, and return the exit code."""
    return train.run_kind(args, "masked_lm")
