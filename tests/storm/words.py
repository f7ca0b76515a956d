"""What bad command lines are made of: files, options and their values, classes, and contradictions."""

from __future__ import annotations

FILES = {
    "mine.py": """
        import pyro_vae as pv
        from torch import nn

        class Mine(pv.models.MLPVAE): pass
        class Other: pass
        class Needs(pv.models.MLPVAE):
            def __init__(self, event_shape, rate: float): super().__init__(event_shape)
        class Fails(pv.models.MLPVAE):
            def __init__(self, event_shape): raise RuntimeError("no luck")
        def function(x): return x
        number = 3
    """,
    "broken.py": "import nowhere_at_all\n",
    "syntax.py": "def (:\n",
    "raises.py": "raise RuntimeError('in the file')\n",
    "latin.csv": b"a,b\n1,\xe9\n2,3\n",
    "words.csv": "a,b\n1,x\n2,y\n",
    "rows.csv": "a,b\n1,2\n3\n",
    "empty.csv": "",
    "header.csv": "a,b\n",
    "text.npy": "not an array",
    "empty.npz": b"",
    "text.zip": "x",
    "image.png": b"\x89PNG\r\n\x1a\n no image",
}
#: Configurations that are none, and a word that the sentence has.
CONFIGS = {
    "brackets": ("[" * 3000, ""),
    "list": ("- 1\n- 2\n", "mapping"),
    "number": ("3\n", "mapping"),
    "tabs": ("a:\t- b\n\tc", "YAML"),
    "binary": (b"\x00\xff\xfe\x80", "YAML"),
    "open text": ('data: "x', "YAML"),
    "twice": ("epochs: 2: 3\n", "YAML"),
    "numbered": ("1: 2\n", "mapping"),
    "misspelled": ("data: x.npy\nepohcs: 3\n", "epochs"),
    "word for a number": ("epochs: many\n", "epochs"),
    "list for a number": ("batch_size: [1, 2]\n", "batch"),
    "mapping for a number": ("seed: {a: 1}\n", "seed"),
    "null": ("epochs: null\n", "epochs"),
    "out of range": ("epochs: -1\n", "epochs"),
    "no pair": ("model: torch.nn.Linear\n", "model"),
    "model 5": ("model: 5\n", "model"),
    "model []": ("model: []\n", "model"),
    "model without a class": ("model: {init_args: {latent_dim: 3}}\n", "model"),
    "argument of another": ("model: {class_path: pyro_vae.models.MLPVAE, init_args: {num_codes: 3}}\n", "num_codes"),
    "argument of a wrong type": (
        "model: {class_path: pyro_vae.models.MLPVAE, init_args: {latent_dim: big}}\n", "latent_dim",
    ),
    "estimator misspelled": ("estimator: {class_path: pyro_vae.IWEA}\n", "IWAE"),
    "estimator 3": ("estimator: 3\n", "estimator"),
    "estimator's argument": ("estimator: {class_path: pyro_vae.IWAE, init_args: {num_particlse: 3}}\n", "particles"),
    "optimizer of another kind": ("optimizer: {class_path: torch.nn.Linear}\n", "optimizer"),
    "optimizer's argument": ("optimizer: {class_path: torch.optim.Adam, init_args: {lr: fast}}\n", "lr"),
    "itself": ("config: config.yaml\n", "config"),
    "trust": ("trust: true\n", "trust"),
    "a function": ("estimator: os.system\n", "os.system"),
}  # fmt: skip


TRAIN = (
    "train", "--data", "x.npy", "--epochs", "1", "--batch-size", "20", "--compile", "eager", "--progress", "false",
)  # fmt: skip
SMALL = ("--model.hidden", "[4]", "--model.latent_dim", "2")
EVALUATE = ("evaluate", "run", "--limit", "2", "--compile", "eager", "--progress", "false")
_OPTIONS = {
    "train": (
        "config data root split valid_size test_size image_size channels covariates labels missing quadrants download "
        "binarization standardize log_inputs with_labels with_mask site model estimator optimizer scheduler epochs "
        "batch_size weight_prior beta schedules seed out resume compile precision device clip_norm average patience "
        "num_data checkpoint_every progress trust"
    ),
    "evaluate": (
        "split method num_samples num_chains num_steps start schedule limit chunk seed compile precision progress trust"
    ),
    "plot": "site trust",
    "estimators": "width",
    "apply restore": (
        "task method level mask missing factor num_images num_steps num_samples num_chains out seed progress trust"
    ),
    "apply impute": ("file labels covariates hidden num_samples num_imputations limit out seed progress trust"),
    "apply anomaly": (
        "data held_out num_train num_test latent_dim hidden epochs batch_size num_samples rate compile out seed "
        "progress"
    ),
    "apply reduce": "site num_neighbors num_data num_ranked accuracy out seed progress trust",
    "apply labels": (
        "data num_labels num_data num_features latent_dim hidden alpha share feature_epochs epochs batch_size lr "
        "compile out seed progress"
    ),
    "apply segment": "num_samples num_images overlap out seed trust",
}
OPTIONS = {command: options.split() for command, options in _OPTIONS.items()}
TEXTS = ("config", "data", "root", "split", "covariates", "labels", "site", "model", "estimator", "optimizer",
         "scheduler", "weight_prior", "schedules", "out", "device", "mask", "file")  # fmt: skip
_OPTIONAL = (
    "root split valid_size test_size image_size channels covariates labels binarization standardize log_inputs "
    "with_labels with_mask site estimator scheduler weight_prior beta schedules out device clip_norm average patience "
    "num_data num_samples num_chains num_steps start schedule limit chunk precision width mask held_out num_train "
    "num_test accuracy quadrants file hidden"
)
OPTIONAL = _OPTIONAL.split()
STRANGE = ("x", "five", "[1, 2]", "{a: 1}", "1,5", "ü", "\u200b", "☃", "\udcff", "3 4", "0x", "'", "[", "{", "1e", "")
#: Numbers that cannot be meant; the rest of the options has none.
RANGES: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "quadrants": ("0", "4", "-1"),
        "epochs": ("0", "-5", "99999999999999999999"),
        "batch_size": ("0", "-1", "61", "1000000"),
        "seed": ("-1",),
        "beta": ("-1", "nan", "inf", "-0.001"),
        "clip_norm": ("0", "-1", "nan", "inf"),
        "average": ("-0.1", "1", "1.5", "nan"),
        "patience": ("-1",),
        "num_data": ("0", "-3"),
        "checkpoint_every": ("-1", "nan"),
        "valid_size": ("-1", "1.5", "60", "nan", "-0.5"),
        "test_size": ("-1", "1000", "nan"),
        "device": ("cuda", "cpux", "5"),
        "model.latent_dim": ("0", "-1"),
        "model.hidden": ("[0]", "[-1]"),
        "optimizer.lr": ("-1", "nan"),
    },
    "evaluate": {
        "num_samples": ("0", "-1"),
        "limit": ("0", "-1"),
        "chunk": ("0", "-1"),
    },
    "estimators": {"width": ("0", "-10")},
    "apply restore": {
        "level": ("-1", "nan", "inf"),
        "missing": ("-0.5", "1.5", "nan"),
        "factor": ("0", "-1"),
        "num_images": ("0", "-1"),
        "num_steps": ("-1",),
        "num_samples": ("0", "-1"),
        "num_chains": ("0", "-1"),
        "seed": ("-1",),
        "mask": ("nowhere.npy", "x.npy", "text.npy", "diagonal"),
    },
    "apply impute": {
        "hidden": ("1", "-0.1", "nan"),
        "num_samples": ("0", "-1"),
        "num_imputations": ("-1",),
        "limit": ("0", "-1"),
        "seed": ("-1",),
        "file": ("nowhere.csv", "reals.npy"),
    },
    "apply anomaly": {
        "held_out": ("-1", "77"),
        "num_train": ("0", "-1"),
        "num_test": ("0", "-1"),
        "latent_dim": ("0", "-1"),
        "hidden": ("[0]", "[-1]"),
        "epochs": ("0", "-1"),
        "batch_size": ("0", "-1"),
        "num_samples": ("0", "-1"),
        "rate": ("-0.1", "1.1", "nan"),
        "seed": ("-1",),
        "data": ("x.npy", "nowhere", "mnits"),
    },
    "apply reduce": {
        "num_neighbors": ("0", "-1"),
        "num_data": ("0", "-1"),
        "num_ranked": ("0", "-1"),
        "accuracy": ("true",),
        "seed": ("-1",),
        "site": ("zz",),
    },
    "apply segment": {
        "num_samples": ("0", "1", "-1"),
        "num_images": ("0", "-1"),
        "overlap": ("-0.1", "1.1", "nan"),
        "seed": ("-1",),
    },
    "apply labels": {
        "num_labels": ("0", "-1", "10000000"),
        "num_data": ("0", "-1"),
        "num_features": ("-1",),
        "latent_dim": ("0", "-1"),
        "hidden": ("0", "-1"),
        "alpha": ("-1", "nan"),
        "share": ("-0.1", "1.1", "nan"),
        "feature_epochs": ("0", "-1"),
        "epochs": ("0", "-1"),
        "batch_size": ("0", "-1"),
        "lr": ("-1", "nan"),
        "seed": ("-1",),
        "data": ("x.npy", "nowhere", "mnits"),
    },
}
#: Classes that options take, of which one letter is changed.
CLASSES = {
    "estimator": ("pyro_vae.IWAE", "pyro_vae.SGVB_B", "pyro_vae.estimators.Capacity", "pyro.infer.Trace_ELBO"),
    "optimizer": ("torch.optim.Adam", "torch.optim.RMSprop", "torch.optim.Adagrad"),
    "scheduler": ("pyro_vae.Cosine", "pyro_vae.Linear", "torch.optim.lr_scheduler.StepLR"),
    "beta": ("pyro_vae.Linear", "pyro_vae.Cyclical"),
    "weight_prior": ("pyro_vae.WeightPrior", "pyro_vae.training.weight_priors.SpectralPrior"),
    "model": ("MLPVAE", "pyro_vae.models.ConvVAE", "pyro_vae.models.VampVAE", "mine.Mine"),
    "model.likelihood": ("pyro_vae.likelihoods.Bernoulli", "pyro_vae.likelihoods.Laplace"),
    "model.posterior": ("pyro_vae.posteriors.DiagonalNormal", "pyro_vae.posteriors.LowRankNormal"),
    "model.prior": ("pyro_vae.priors.StandardNormal", "pyro_vae.priors.VampPrior"),
}
#: What is there and of another kind, and what is not.
NO_CLASSES = (
    "torch.nn.Linear", "os.system", "os.path", "math.pi", "nowhere.Thing", "mine.Other", "mine.function", "mine.number",
    "mine.Nothing", "broken.Thing", "syntax.Thing", "raises.Thing", "./mine.py", "mine", "..", ".x", "x.", "pyro_vae",
    "pyro_vae.models", "int", "builtins.int", "3", "true", "[]", "{class_path: 3}", "Ümläut.Ding", "a b",
    "torch.optim.Optimizer", "collections.abc.Sequence",
)  # fmt: skip
#: Arguments of parts: the class, its option, and a value that is of no use; misspelled as well.
NESTED = (
    ("estimator", "pyro_vae.IWAE", "num_particles", "x"),
    ("estimator", "pyro_vae.IWAE", "num_particles", "2.5"),
    ("estimator", "pyro_vae.Renyi", "alpha", "one"),
    ("estimator", "pyro_vae.Capacity", "capacity", "[]"),
    ("optimizer", "torch.optim.Adam", "lr", "fast"),
    ("optimizer", "torch.optim.SGD", "momentum", "x"),
    ("optimizer", "torch.optim.Adam", "betas", "x"),
    ("scheduler", "pyro_vae.Cosine", "warmup", "x"),
    ("scheduler", "torch.optim.lr_scheduler.StepLR", "step_size", "x"),
    ("beta", "pyro_vae.Linear", "start", "x"),
    ("weight_prior", "pyro_vae.WeightPrior", "scale", "x"),
    ("model", "MLPVAE", "latent_dim", "x"),
    ("model", "MLPVAE", "hidden", "x"),
    ("model", "MLPVAE", "latent_dim", "2.5"),
    ("model", "VampVAE", "num_components", "x"),
    ("model.likelihood", "pyro_vae.likelihoods.Normal", "scale", "x"),
    ("model.likelihood", "pyro_vae.likelihoods.Normal", "sigmoid_mean", "perhaps"),
    ("model.posterior", "pyro_vae.posteriors.LowRankNormal", "rank", "x"),
    ("model.prior", "pyro_vae.priors.VampPrior", "num_components", "x"),
)
#: Options that contradict each other, or the data; the last words are what the sentence has.
CONTRADICTIONS = (
    (*TRAIN, "--data", "reals.npy", "--binarization", "dynamic", "/", "binarization"),
    (*TRAIN, "--data", "reals.npy", "--model.likelihood", "pyro_vae.Bernoulli", "/", "Bernoulli"),
    (*TRAIN, "--data", "counts.npy", "--model.likelihood", "pyro_vae.Bernoulli", "/", "Bernoulli"),
    (*TRAIN, "--data", "nan.npy", "/", "nan"),
    (*TRAIN, "--standardize", "true", "--binarization", "dynamic", "/", "binarization"),
    (*TRAIN, "--standardize", "true", "--missing", "true", "/", "missing"),
    (*TRAIN, "--data", "reals.npy", "--log-inputs", "true", "/", "log-inputs"),
    (*TRAIN, "--with-labels", "true", "/", "labels"),
    (*TRAIN, "--labels", "a", "/", "labels"),
    (*TRAIN, "--covariates", "a", "/", "'a'"),
    (*TRAIN, "--split", "published", "/", "split"),
    (*TRAIN, "--image-size", "8", "/", "image"),
    (*TRAIN, "--channels", "3", "/", "channels"),
    (*TRAIN, "--data", "digits", "--valid-size", "10", "/", "valid"),
    (*TRAIN, "--beta", "0.5", "--schedules", "{beta: {class_path: pyro_vae.Linear}}", "/", "beta"),
    (*TRAIN, "--patience", "3", "--valid-size", "0", "/", "patience"),
    (*TRAIN, "--valid-size", "0.6", "--test-size", "0.6", "/", "valid"),
    (*TRAIN, "--out", "x.npy", "/", "x.npy"),
    (*TRAIN, "--out", "run", "/", "run"),
    (*TRAIN, "--out", "run", "--resume", "true", "--model.latent_dim", "3", "/", "another pair"),
    (*TRAIN, "--site", "zz", "/", "zz"),
    (*TRAIN, "--schedules", "{nothing: {class_path: pyro_vae.Linear}}", "/", "nothing"),
    (*TRAIN, "--model", "CodePrior", "/", "first"),
    (*TRAIN, "--model", "CodePrior", "--first", "run", "/", "MLPVAE"),
    (*TRAIN, "--model", "CodePrior", "--first", "nowhere", "/", "nowhere"),
    (*TRAIN, "--model", "ConvVAE", "/", "(6,)"),
    (*TRAIN, "--model", "FullBayes", "/", "pair"),
    (*TRAIN, "--model", "mine.Needs", "/", "rate"),
    (*TRAIN, "--model", "mine.Fails", "/", "no luck"),
    (*TRAIN, "--estimator", "os.system", "/", "system"),
    (*TRAIN, "--estimator", "mine.function", "/", "mine.function"),
    (*TRAIN, "--estimator", "pyro_vae.VIMCO", "--estimator.num_particles", "1", "/", "num_particles"),
    (*TRAIN, "--config", "run/config.yaml", "--config", "nowhere.yaml", "/", "nowhere.yaml"),
    (*EVALUATE, "--num-chains", "3", "/", "--num-chains"),
    (*EVALUATE, "--method", "ais", "--num-samples", "3", "/", "--num-samples"),
    (*EVALUATE, "--method", "ais", "--precision", "bfloat16", "/", "--precision"),
    (*EVALUATE, "--method", "bdmc", "--num-steps", "0", "/", "num"),
    (*EVALUATE, "--method", "hmc", "--num-chains", "0", "/", "num"),
    (*EVALUATE, "--method", "hmc", "--schedule", "linear", "/", "--schedule"),
    ("evaluate", "trusted", "/", "--trust"),
    ("plot", "trusted", "/", "--trust"),
    ("plot", "run", "--site", "zz", "/", "zz"),
    ("apply", "restore", "run", "/", "image"),
    ("apply", "restore", "trusted", "/", "--trust"),
    ("apply", "reduce", "run", "--num-neighbors", "1000", "/", "neighbors"),
)
#: Data that are none, and a word that the sentence has.
DATA = {
    "text.npy": "text.npy", "empty.npz": "empty.npz", "objects.npy": "objects.npy", "words.npy": "words.npy",
    "strange.npz": "strange.npz", "latin.csv": "UTF-8", "words.csv": "'x'", "rows.csv": "rows.csv",
    "empty.csv": "empty.csv", "header.csv": "header.csv", "text.zip": "text.zip", "image.png": "image.png",
    "empty": "empty", "mnits": "mnist", "digit": "digits", "": "", "/dev/null": "/dev/null", "mine.py": "mine.py",
    "☃.npy": "☃.npy", "run": "run", "x.npz": "x.npy", "pipe.npy": "pipe.npy", "a" * 5000: "aaa",
}  # fmt: skip
