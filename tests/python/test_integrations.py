"""The callbacks in the real trainers: what they log, and that training goes on with the same bits."""

import csv
import os
import warnings

import pytest
import torch

import lmhead

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # without which its Trainer does not start
slow = pytest.mark.skipif(not os.environ.get("LMHEAD_SLOW_TESTS"), reason="LMHEAD_SLOW_TESTS is not set")
FIGURES = ["destroyed_ratio", "null_destroyed_ratio", "destroyed_excess", "retained_energy", "tokens"]


def tiny_model():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=97, n_embd=16, n_layer=1, n_head=2, n_positions=16, resid_pdrop=0.1, embd_pdrop=0.1,
                                     attn_pdrop=0.1, tie_word_embeddings=False)  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def examples(count=64):
    draw = torch.Generator().manual_seed(1)
    return [{"input_ids": row, "labels": row} for row in torch.randint(97, (count, 12), generator=draw)]


def train(folder, with_callback=True, steps=50, every=10, callback=(), **arguments):
    """The trainer after so many steps on a tiny model with dropout."""
    trainer = transformers.Trainer(
        model=tiny_model(),
        args=transformers.TrainingArguments(
            output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2, use_cpu=True, seed=3,
            logging_steps=25, save_strategy="no", disable_tqdm=True, **({"report_to": "none"} | arguments),
        ),
        train_dataset=examples(),
    )  # fmt: skip
    if with_callback:
        from lmhead.integrations.transformers import HeadCallback

        trainer.add_callback(HeadCallback(trainer, every=every, **dict(callback)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    return trainer


def measured(trainer):
    return {entry["step"]: entry for entry in trainer.state.log_history if "head/destroyed_ratio" in entry}


def parameters(trainer):
    return torch.cat([parameter.detach().reshape(-1) for parameter in trainer.model.parameters()])


def test_the_trainer_logs_the_head_and_trains_with_the_same_bits(tmp_path):
    plain, observed = train(tmp_path / "plain", with_callback=False), train(tmp_path / "observed")
    assert torch.equal(parameters(plain), parameters(observed))
    losses = [[entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (plain, observed)]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    found = measured(observed)
    assert list(found) == [10, 20, 30, 40, 50]
    assert all(entry[f"head/{name}"] is not None for entry in found.values() for name in FIGURES)
    assert found[50]["head/tokens"] == 4 * 11
    # The last figures are those of the model as it is now, on some rows of the data.
    now = lmhead.measure(observed.model, [row["input_ids"] for row in examples()])
    assert found[50]["head/null_destroyed_ratio"] == now["null_destroyed_ratio"]
    assert abs(found[50]["head/destroyed_ratio"] - now["destroyed_ratio"]) < 0.05
    assert "training_step" not in vars(observed)


def test_accumulated_gradients_are_one_step(tmp_path):
    found = measured(train(tmp_path, steps=6, every=2, gradient_accumulation_steps=3, callback={"max_tokens": 24}))
    assert list(found) == [2, 4, 6] and {entry["head/tokens"] for entry in found.values()} == {2 * 11}


@slow
def test_a_compiled_model_keeps_its_graph(tmp_path):
    counts = []
    for with_callback in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        trainer = train(tmp_path / str(with_callback), with_callback, steps=4, every=2, torch_compile=True, torch_compile_backend="eager")
        counters = torch._dynamo.utils.counters
        counts.append((sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"], parameters(trainer)))
    assert counts[0][:2] == counts[1][:2] and torch.equal(counts[0][2], counts[1][2])
    assert list(measured(trainer)) == [2, 4]


@slow
def test_figures_reach_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
        train(tmp_path / "run", steps=4, every=2, report_to="tensorboard")
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    events = accumulator.EventAccumulator(str(file))
    events.Reload()
    tag = next(tag for tag in events.Tags()["scalars"] if tag.endswith("head/destroyed_ratio"))
    assert [event.step for event in events.Scalars(tag)] == [2, 4]


def test_batches_without_a_token_that_counts_are_passed_over(tmp_path):
    from lmhead.integrations.measurement import HeadMeasurement

    rows = torch.zeros(2, 5, dtype=torch.long)
    assert HeadMeasurement().of_batch(tiny_model(), {"input_ids": rows, "labels": rows - 100}) == {}


def test_modules_kept_in_evaluation_mode_stay_there():
    model = tiny_model().train()
    model.transformer.h[0].eval()
    lmhead.measure(model, [torch.arange(12)])
    assert model.training and not model.transformer.h[0].training and not model.transformer.h[0].mlp.dropout.training


@pytest.mark.parametrize(
    "options, words",
    [({"every": 0}, "every must be a positive integer"), ({"every": True}, "every must be"), ({"max_tokens": 1.5}, "max_tokens must be"),
     ({"figures": ("loss",)}, "figures must be among")],
)  # fmt: skip
def test_options_that_do_not_fit_are_errors(tmp_path, options, words):
    from lmhead.integrations.measurement import HeadMeasurement

    with pytest.raises(ValueError, match=words):
        HeadMeasurement(**options).of_batch(tiny_model(), {"input_ids": torch.arange(12).unsqueeze(0)})
    with pytest.raises(TypeError):
        HeadMeasurement(no_such_option=1)


def test_a_head_that_is_not_whole_is_refused(tmp_path):
    from lmhead.integrations.measurement import require_whole_head

    with pytest.raises(ValueError, match="must have a linear output embedding"):
        require_whole_head(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="must be a transformers.Trainer"):
        from lmhead.integrations.transformers import HeadCallback

        HeadCallback("trainer")


def lightning_module(lightning):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = tiny_model()

        def training_step(self, batch, index):
            return self.model(**batch).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    return Module()


@slow
@pytest.mark.parametrize("whose", ["model", "features"])
def test_lightning_logs_the_head_and_trains_with_the_same_bits(tmp_path, whose):
    lightning = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.loggers import CSVLogger
    from lmhead.integrations.lightning import HeadCallback

    def features(module, batch):
        hidden = module.model.transformer(batch["input_ids"]).last_hidden_state
        return module.model.lm_head.weight, hidden[:, :-1], batch["input_ids"][:, 1:]

    def fit(name, callbacks):
        lightning.seed_everything(5, verbose=False)
        module, logger = lightning_module(lightning), CSVLogger(str(tmp_path), name=name)
        loader = torch.utils.data.DataLoader(examples(), batch_size=4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = lightning.Trainer(max_steps=8, logger=logger, callbacks=callbacks, enable_progress_bar=False, enable_checkpointing=False,
                                        enable_model_summary=False, accelerator="cpu", accumulate_grad_batches=2, log_every_n_steps=1)  # fmt: skip
            trainer.fit(module, loader)
        logger.save()
        return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()]), tmp_path / name

    plain, _ = fit("plain", [])
    callback = HeadCallback(every=4, features=features if whose == "features" else None)
    observed, folder = fit(whose, [callback])
    assert torch.equal(plain, observed)
    (file,) = folder.rglob("metrics.csv")
    rows = [row for row in csv.DictReader(file.open()) if row.get("head/destroyed_ratio")]
    assert [int(row["step"]) for row in rows] == [4, 8]
