"""Tiny models and data for the tests of routing while a model trains."""

import torch
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from moeviz.embedded import embedded_path
from moeviz.embedded.evaluation import evaluation_set

TOKENIZER = AutoTokenizer.from_pretrained(embedded_path())
FACTS = {
    "vocab_size": 8192,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "router_aux_loss_coef": 0.02,
    "output_router_logits": True,
    "pad_token_id": 0,
}
ARGUMENTS = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "max_steps": 3,
    "logging_steps": 1,
    "report_to": [],
    "use_cpu": True,
    "save_strategy": "no",
    "disable_tqdm": True,
    "learning_rate": 1e-3,
    "seed": 3,
    "lr_scheduler_type": "constant",
    "log_level": "error",
    "dataloader_pin_memory": False,
}


def tiny(seed=0, **changes):
    """A Mixtral of three layers of eight experts, top-2."""
    torch.manual_seed(seed)
    return MixtralForCausalLM(MixtralConfig(**(FACTS | changes)))


def windows(length=64, count=64, ragged=False, seed=0):
    """Windows of the shipped evaluation texts; ragged ones have different lengths, so that batches get padding."""
    ids = [i for text in evaluation_set() for i in TOKENIZER(text.text)["input_ids"]]
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, len(ids) - length, (count,), generator=generator).tolist()
    lengths = torch.randint(length // 3, length + 1, (count,), generator=generator).tolist()
    return [ids[s : s + (n if ragged else length)] for s, n in zip(starts, lengths, strict=True)]


def collate(rows):
    """A padded batch."""
    rows = [row["input_ids"] if isinstance(row, dict) else row for row in rows]
    width = max(map(len, rows))
    ids, mask = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


class Rows(torch.utils.data.Dataset):
    """Windows as a dataset."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return {"input_ids": self.rows[i]}


def trainer_of(model, rows, folder, *callbacks, seen=None, evaluate=None, make=Trainer, **options):
    """A Trainer that is quiet; `seen` gets every batch that its loader makes."""

    def noting(batch):
        made = collate(batch)
        if seen is not None:
            seen.append(made)
        return made

    args = TrainingArguments(str(folder), **(ARGUMENTS | options))
    trainer = make(
        model,
        args,
        train_dataset=Rows(rows),
        eval_dataset=Rows(evaluate) if evaluate else None,
        data_collator=noting,
        callbacks=list(callbacks),
        processing_class=TOKENIZER,
    )
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    return trainer


def recount(model, batch, keep=None):
    """Assignments (L, E) without moeviz: top-2 of the logits that the model hands out."""
    model.eval()
    with torch.no_grad():
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"], output_router_logits=True)
    keep = batch["attention_mask"].reshape(-1).bool() if keep is None else keep
    chosen = [layer.softmax(-1).topk(2).indices[keep].flatten() for layer in logits.router_logits]
    return torch.stack([torch.bincount(layer, minlength=8) for layer in chosen])


def probe(count=3):
    """Labelled texts."""
    return [(text.label, text.text[:120]) for text in evaluation_set()][:count]
