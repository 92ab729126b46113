"""The house of the README, checked: each module imports only from levels below its own."""

import ast
from pathlib import Path

LEVELS = [
    {"errors", "atomic_file", "lock", "child_process", "slow_imports"},
    {"config", "checkpoint_file", "ranks", "sweep.job_names", "user_cache"},
    {"machine"},
    {
        "fingerprint",
        "data.download",
        "data.generated",
        "data.held_out",
        "data.text",
        "data.vocabulary",
        "data.windows",
        "model.core",
        "model.start_values",
        "model.fused.cpp_build",
        "model.fused.cuda_graph",
        "model.fused.layer",
        "model.products",
        "model.fused.triton_steps",
    },
    {
        "model.builtin",
        "model.fused.torch_kernels",
        "model.scratch_gru",
        "model.scratch_lstm",
        "model.scratch_rnn",
        "model.transformer",
    },
    {"model.fused.cpp_kernels", "model.fused.triton_kernels"},
    {"model.fused.kernels"},
    {"auto_settings", "model.fused.sequence"},
    {
        "data.corpora",
        "model.fused.cores",
        "data.tokenized",
    },
    {"data.token_cache", "model.language_model"},
    {"data.splits"},
    {"data.data_module", "run_folder"},
    {"restore"},
    {
        "evaluation",
        "generation",
        "inside.gradient_flow",
        "inside.readable",
        "inside.text_picture",
        "inside.trace",
        "prompts",
        "training.step_callback",
    },
    {
        "inside.page",
        "training.budget",
        "training.event_files",
        "training.followers",
        "training.hparams",
        "training.optimization",
        "training.step_log",
        "training.stop_signals",
    },
    {"training.agreement", "training.inside", "training.processes", "training.task"},
    {
        "training.checkpoints",
        "training.exact_resume",
        "training.measurements",
        "training.samples",
    },
    {"training.final_figures", "training.floor", "training.progress", "training.trainer"},
    {"training.session"},
    {"training.follower"},
    {"training.follower_process"},
    {"init_from", "resume_rules"},
    {
        "experiment",
        "comparison.axes",
        "comparison.curves",
        "sweep.gpu_slots",
        "comparison.line_styles",
        "sweep.sweep_folder",
        "sweep.table",
    },
    {"sweep.job", "sweep.plan", "sweep.processes", "comparison.results"},
    {"comparison.best_run", "comparison.differences", "sweep.rows"},
    {
        "comparison.columns",
        "comparison.contenders",
        "comparison.grid",
        "comparison.lines",
        "sweep.runner",
    },
    {
        "comparison.gradient_flow_plot",
        "comparison.memory_plot",
        "comparison.plots",
        "comparison.summary_files",
        "comparison.terminal_table",
    },
    {"comparison.cost_plot", "comparison.heat_map", "comparison.seed_plot"},
    {"comparison.report"},
    {
        "sweep.run_sweep",
        "benchmark.busy",
        "benchmark.naive",
        "benchmark.rows",
        "benchmark.shapes",
    },
    {"benchmark.device"},
    {
        "benchmark.chart",
        "benchmark.interleaved",
        "benchmark.models",
        "benchmark.peak",
        "benchmark.training_step",
    },
    {"benchmark.cores", "benchmark.generate", "benchmark.run_in_turns", "benchmark.sweep"},
    {"benchmark.inside", "benchmark.loop"},
]
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
SOURCE = Path(__file__).parents[1] / "src" / "lstm_lm"
LIGHTNING_ALLOWED = {"data.data_module", "experiment"}
OMEGACONF_ALLOWED = {"run_folder"}


def modules():
    for path in SOURCE.rglob("*.py"):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(SOURCE).with_suffix("").parts), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def own_imports(path):
    return [i.removeprefix("lstm_lm.") for i in imports(path) if i.startswith("lstm_lm.")]


def test_every_module_has_a_level():
    assert {name for name, _ in modules()} == set(LEVEL)


def test_imports_point_down():
    upward = [(n, i) for n, path in modules() for i in own_imports(path) if LEVEL[i] >= LEVEL[n]]
    assert not upward


def test_data_and_model_do_not_know_each_other():
    for name, path in modules():
        for other in own_imports(path):
            assert {name.split(".")[0], other.split(".")[0]} != {"data", "model"}


def test_lightning_and_hydra_stay_where_they_belong():
    for name, path in modules():
        packages = {i.split(".")[0] for i in imports(path)}
        assert "hydra" not in packages, name
        if "lightning" in packages:
            assert name in LIGHTNING_ALLOWED or name.startswith("training."), name
        if "omegaconf" in packages:
            assert name in OMEGACONF_ALLOWED, name


def test_package_files_are_empty_but_for_the_map():
    for path in SOURCE.rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == (1 if path.parent == SOURCE else 0)
