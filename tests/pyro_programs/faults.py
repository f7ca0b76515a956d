"""What of today's code refuses a program or fails on it, by program and aspect, with the sentence that is seen.

A test of such a line has to fail; who mends it deletes the line.
"""

# ruff: noqa: E501

FAULTS: dict[tuple[str, str], str] = {
    (
        "conditional VAE",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: Tensors must have same number of dimensions: got 3 and 2).",
    (
        "HMM, loops",
        "check",
    ): "PairError: With two particles the model fails (IndexError: index 2 is out of bounds for dimension 0 with size 2).",
    (
        "HMM, plates",
        "check",
    ): "PairError: The observed site 'y_0' stands in several plates, 'sequences' (dim=-2, size 4), 'tones' (dim=-1, size 4), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\", len(x",
    (
        "HMM, vectorized",
        "check",
    ): "PairError: With two particles the model fails (site y has 2 where plate sequences has 10).",
    (
        "LDA",
        "check",
    ): "PairError: The observed site 'doc_words' stands in several plates, 'documents' (dim=-1, size 20), 'words' (dim=-2, size 8), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\"",
    (
        "LDA, mini-batches",
        "check",
    ): "PairError: The observed site 'doc_words' stands in several plates, 'documents' (dim=-1, size 6), 'words' (dim=-2, size 8), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\",",
    (
        "ProdLDA",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: running_mean should contain 20 elements not 10).",
    (
        "sparse gamma DEF, EasyGuide",
        "check",
    ): "PairError: The plate 'w_top_plate' has size 12 in the model and -1 in the guide. Size both by the batch: pyro.plate(\"w_top_plate\", len(x)). The plate 'w_bottom_plate' has size 40 in the model and -1 in the guide. Size bo",
    (
        "AIR",
        "check",
    ): "PairError: With two particles the guide fails (RuntimeError: expand(torch.FloatTensor{[2, 3]}, size=[10]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)).",
    (
        "regression, AutoNormal",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoDelta",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoDiagonalNormal",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoMultivariateNormal",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoLowRankMultivariateNormal",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoIAFNormal",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoLaplaceApproximation",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoStructured",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoGuideList",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, by hand",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "Gaussian mixture",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: The size of tensor a (30) must match the size of tensor b (2) at non-singleton dimension 1).",
    ("semi-supervised VAE", "fit"): "another loss than Pyro's: the default estimator does not look at the sites",
    ("semi-supervised VAE", "state"): "another loss of the first batch than before",
    ("semi-supervised VAE", "importance"): "log p(x) differs by 6 %",
    ("semi-supervised VAE", "evaluate"): "status 2 after a training",
    (
        "conditional VAE",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: Tensors must have same number of dimensions: got 3 and 2).",
    (
        "deep Markov model",
        "fit",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'PackedSequence', 'Tensor', 'Tensor']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "deep Markov model, IAF",
        "fit",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'PackedSequence', 'Tensor', 'Tensor']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "HMM, loops",
        "fit",
    ): "PairError: With two particles the model fails (IndexError: index 2 is out of bounds for dimension 0 with size 2).",
    (
        "HMM, plates",
        "fit",
    ): "PairError: The observed site 'y_0' stands in several plates, 'sequences' (dim=-2, size 4), 'tones' (dim=-1, size 4), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\", len(x",
    (
        "HMM, vectorized",
        "fit",
    ): "PairError: With two particles the model fails (site y has 2 where plate sequences has 10).",
    (
        "LDA",
        "fit",
    ): "PairError: The observed site 'doc_words' stands in several plates, 'documents' (dim=-1, size 20), 'words' (dim=-2, size 8), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\"",
    (
        "LDA, mini-batches",
        "fit",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'int']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "ProdLDA",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: running_mean should contain 20 elements not 10).",
    (
        "sparse gamma DEF, EasyGuide",
        "fit",
    ): "PairError: The plate 'w_top_plate' has size 12 in the model and -1 in the guide. Size both by the batch: pyro.plate(\"w_top_plate\", len(x)). The plate 'w_bottom_plate' has size 40 in the model and -1 in the guide. Size bo",
    ("scANVI, no labels", "fit"): "the default is SGVB_A, which draws y and trains on other losses than TraceEnum_ELBO",
    (
        "AIR",
        "fit",
    ): "PairError: With two particles the guide fails (RuntimeError: expand(torch.FloatTensor{[2, 3]}, size=[10]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)).",
    (
        "regression, AutoNormal",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoDelta",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoDiagonalNormal",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoMultivariateNormal",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoLowRankMultivariateNormal",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoIAFNormal",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoLaplaceApproximation",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoStructured",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoGuideList",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, by hand",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "Gaussian mixture",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: The size of tensor a (30) must match the size of tensor b (2) at non-singleton dimension 1).",
    (
        "deep Markov model",
        "why",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'PackedSequence', 'Tensor', 'Tensor']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "deep Markov model, IAF",
        "why",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'PackedSequence', 'Tensor', 'Tensor']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "HMM, loops",
        "why",
    ): "PairError: With two particles the model fails (IndexError: index 2 is out of bounds for dimension 0 with size 2).",
    (
        "HMM, plates",
        "why",
    ): "PairError: The observed site 'y_0' stands in several plates, 'sequences' (dim=-2, size 4), 'tones' (dim=-1, size 4), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\", len(x",
    (
        "ProdLDA",
        "why",
    ): "PairError: With two particles the model fails (RuntimeError: running_mean should contain 20 elements not 10).",
    (
        "conditional VAE",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: Tensors must have same number of dimensions: got 3 and 2).",
    (
        "deep Markov model",
        "parameters",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'PackedSequence', 'Tensor', 'Tensor']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "deep Markov model, IAF",
        "parameters",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'PackedSequence', 'Tensor', 'Tensor']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "HMM, loops",
        "parameters",
    ): "PairError: With two particles the model fails (IndexError: index 2 is out of bounds for dimension 0 with size 2).",
    (
        "HMM, plates",
        "parameters",
    ): "PairError: The observed site 'y_0' stands in several plates, 'sequences' (dim=-2, size 4), 'tones' (dim=-1, size 4), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\", len(x",
    (
        "HMM, vectorized",
        "parameters",
    ): "PairError: With two particles the model fails (site y has 2 where plate sequences has 10).",
    (
        "LDA",
        "parameters",
    ): "PairError: The observed site 'doc_words' stands in several plates, 'documents' (dim=-1, size 20), 'words' (dim=-2, size 8), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\"",
    (
        "LDA, mini-batches",
        "parameters",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'int']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "ProdLDA",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: running_mean should contain 20 elements not 10).",
    (
        "sparse gamma DEF, EasyGuide",
        "parameters",
    ): "PairError: The plate 'w_top_plate' has size 12 in the model and -1 in the guide. Size both by the batch: pyro.plate(\"w_top_plate\", len(x)). The plate 'w_bottom_plate' has size 40 in the model and -1 in the guide. Size bo",
    (
        "AIR",
        "parameters",
    ): "PairError: With two particles the guide fails (RuntimeError: expand(torch.FloatTensor{[2, 3]}, size=[10]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)).",
    (
        "regression, AutoNormal",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoDelta",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoDiagonalNormal",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoMultivariateNormal",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoLowRankMultivariateNormal",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoIAFNormal",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoLaplaceApproximation",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoStructured",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoGuideList",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, by hand",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "Gaussian mixture",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: The size of tensor a (30) must match the size of tensor b (2) at non-singleton dimension 1).",
    (
        "conditional VAE",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: Tensors must have same number of dimensions: got 3 and 2).",
    (
        "deep Markov model",
        "state",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'PackedSequence', 'Tensor', 'Tensor']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "deep Markov model, IAF",
        "state",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'PackedSequence', 'Tensor', 'Tensor']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "HMM, loops",
        "state",
    ): "PairError: With two particles the model fails (IndexError: index 2 is out of bounds for dimension 0 with size 2).",
    (
        "HMM, plates",
        "state",
    ): "PairError: The observed site 'y_0' stands in several plates, 'sequences' (dim=-2, size 4), 'tones' (dim=-1, size 4), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\", len(x",
    (
        "HMM, vectorized",
        "state",
    ): "PairError: With two particles the model fails (site y has 2 where plate sequences has 10).",
    (
        "LDA",
        "state",
    ): "PairError: The observed site 'doc_words' stands in several plates, 'documents' (dim=-1, size 20), 'words' (dim=-2, size 8), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\"",
    (
        "LDA, mini-batches",
        "state",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'int']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "ProdLDA",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: running_mean should contain 20 elements not 10).",
    (
        "sparse gamma DEF",
        "state",
    ): 'RuntimeError: Error(s) in loading state_dict for Pair: Unexpected key(s) in state_dict: "pyro_params.param/alpha_w_top", "pyro_params.param/mean_w_top", "pyro_params.param/alpha_w_bottom", "pyro_params.param/mean_w_botto',
    (
        "sparse gamma DEF, EasyGuide",
        "state",
    ): "PairError: The plate 'w_top_plate' has size 12 in the model and -1 in the guide. Size both by the batch: pyro.plate(\"w_top_plate\", len(x)). The plate 'w_bottom_plate' has size 40 in the model and -1 in the guide. Size bo",
    (
        "scANVI, no labels",
        "state",
    ): 'RuntimeError: Error(s) in loading state_dict for Pair: Unexpected key(s) in state_dict: "pyro_params.param/inverse_dispersion", "announced.scanvi.z2_decoder.0.weight", "announced.scanvi.z2_decoder.0.bias", "announced.sca',
    (
        "AIR",
        "state",
    ): "PairError: With two particles the guide fails (RuntimeError: expand(torch.FloatTensor{[2, 3]}, size=[10]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)).",
    (
        "regression, AutoNormal",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoDelta",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoDiagonalNormal",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoMultivariateNormal",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoLowRankMultivariateNormal",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoIAFNormal",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoLaplaceApproximation",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoStructured",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, AutoGuideList",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "regression, by hand",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D).",
    (
        "Gaussian mixture",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: The size of tensor a (30) must match the size of tensor b (2) at non-singleton dimension 1).",
    (
        "eight schools",
        "state",
    ): 'RuntimeError: Error(s) in loading state_dict for Pair: Unexpected key(s) in state_dict: "pyro_params.param/AutoNormal/locs/mu", "pyro_params.param/AutoNormal/scales/mu", "pyro_params.param/AutoNormal/locs/tau", "pyro_par',
    (
        "eight schools, reparametrized",
        "state",
    ): 'RuntimeError: Error(s) in loading state_dict for Pair: Unexpected key(s) in state_dict: "pyro_params.param/AutoNormal/locs/mu", "pyro_params.param/AutoNormal/scales/mu", "pyro_params.param/AutoNormal/locs/tau", "pyro_par',
    ("HMM, vectorized", "SVI"): "AttributeError: 'Parameter' object has no attribute 'unconstrained'",
    ("regression, AutoNormal", "SVI"): "AttributeError: 'Parameter' object has no attribute 'unconstrained'",
    ("regression, AutoDelta", "SVI"): "AttributeError: 'Parameter' object has no attribute 'unconstrained'",
    ("regression, AutoStructured", "SVI"): "AttributeError: 'Parameter' object has no attribute 'unconstrained'",
    ("Gaussian mixture", "SVI"): "AttributeError: 'Parameter' object has no attribute 'unconstrained'",
    ("eight schools", "SVI"): "AttributeError: 'Parameter' object has no attribute 'unconstrained'",
    ("eight schools, reparametrized", "SVI"): "AttributeError: 'Parameter' object has no attribute 'unconstrained'",
    (
        "HMM, loops",
        "Enumeration",
    ): "ValueError: Enumeration weighs each datum by itself, but 'probs_x' stands outside the data plate and belongs to all of them. Use SGVB_A, SGVB_B or ScoreFunction; or of a FullBayes pair.posterior_predictive(), whose weigh",
    (
        "HMM, plates",
        "Enumeration",
    ): "ValueError: The pair nests 2 plates, but Enumeration was made for 1: make it as Enumeration(..., max_plate_nesting=2).",
    (
        "LDA",
        "Enumeration",
    ): "ValueError: The pair nests 2 plates, but Enumeration was made for 1: make it as Enumeration(..., max_plate_nesting=2).",
    (
        "LDA, mini-batches",
        "Enumeration",
    ): "ValueError: The pair nests 2 plates, but Enumeration was made for 1: make it as Enumeration(..., max_plate_nesting=2).",
    (
        "Gaussian mixture",
        "Enumeration",
    ): "ValueError: Enumeration weighs each datum by itself, but 'weights' stands outside the data plate and belongs to all of them. Use SGVB_A, SGVB_B or ScoreFunction; or of a FullBayes pair.posterior_predictive(), whose weigh",
    ("conditional VAE", "SGVB_A(3)"): "RuntimeError: Tensors must have same number of dimensions: got 3 and 2",
    ("conditional VAE", "SGVB_B(3)"): "RuntimeError: Tensors must have same number of dimensions: got 3 and 2",
    (
        "HMM, loops",
        "Enumeration(3)",
    ): "ValueError: Error while packing tensors at site 'x_0_0': Invalid tensor shape. Allowed dims: -3, -2 Actual shape: (3, 3, 3) Try adding shape assertions for your model's sample values and distribution parameters.",
    (
        "HMM, plates",
        "Enumeration(3)",
    ): "ValueError: The pair nests 2 plates, but Enumeration was made for 1: make it as Enumeration(..., max_plate_nesting=2).",
    ("HMM, vectorized", "SGVB_A(3)"): "ValueError: Shape mismatch inside plate('sequences') at site y dim -1, 10 vs 3",
    ("HMM, vectorized", "SGVB_B(3)"): "ValueError: Shape mismatch inside plate('sequences') at site y dim -1, 10 vs 3",
    (
        "LDA",
        "Enumeration(3)",
    ): "ValueError: The pair nests 2 plates, but Enumeration was made for 1: make it as Enumeration(..., max_plate_nesting=2).",
    (
        "LDA, mini-batches",
        "Enumeration(3)",
    ): "ValueError: The pair nests 2 plates, but Enumeration was made for 1: make it as Enumeration(..., max_plate_nesting=2).",
    ("ProdLDA", "SGVB_A(3)"): "RuntimeError: running_mean should contain 20 elements not 10",
    ("ProdLDA", "SGVB_B(3)"): "RuntimeError: running_mean should contain 20 elements not 10",
    (
        "AIR",
        "SGVB_A(3)",
    ): "RuntimeError: expand(torch.FloatTensor{[3, 3]}, size=[10]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)",
    (
        "AIR",
        "ScoreFunction(3)",
    ): "RuntimeError: expand(torch.FloatTensor{[3, 3]}, size=[10]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)",
    ("regression, AutoNormal", "SGVB_A(3)"): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    ("regression, AutoNormal", "SGVB_B(3)"): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    ("regression, AutoDelta", "SGVB_A(3)"): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    ("regression, AutoDelta", "SGVB_B(3)"): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoDiagonalNormal",
        "SGVB_A(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoDiagonalNormal",
        "SGVB_B(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoMultivariateNormal",
        "SGVB_A(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoMultivariateNormal",
        "SGVB_B(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoLowRankMultivariateNormal",
        "SGVB_A(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoLowRankMultivariateNormal",
        "SGVB_B(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoIAFNormal",
        "SGVB_A(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoIAFNormal",
        "SGVB_B(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoLaplaceApproximation",
        "SGVB_A(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoLaplaceApproximation",
        "SGVB_B(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoStructured",
        "SGVB_A(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoGuideList",
        "SGVB_A(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "regression, AutoGuideList",
        "SGVB_B(3)",
    ): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    ("regression, by hand", "SGVB_A(3)"): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    ("regression, by hand", "SGVB_B(3)"): "RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 4D",
    (
        "Gaussian mixture",
        "Enumeration(3)",
    ): "ValueError: Enumeration gives a discrete latent all of its values at once, on one more dimension on the left, [V, 1, *event], with which a program fails (Shape mismatch inside plate('data') at site obs dim -1, 30 vs 2). ",
    ("conditional VAE", "importance"): "RuntimeError: Tensors must have same number of dimensions: got 3 and 2",
    ("deep Markov model", "importance"): "AttributeError: 'tuple' object has no attribute 'to'",
    ("deep Markov model, IAF", "importance"): "AttributeError: 'tuple' object has no attribute 'to'",
    (
        "HMM, plates",
        "importance",
    ): "The observed site \\'y_0\\' stands in several plates, \\'sequences\\' (dim=-2, size 4), \\'tones\\' (dim=-1, size 4), none of them called \\'data\\'. Call that of the data so, and put it at the right: pyro.plate(\"data\", len(x), ",
    (
        "LDA",
        "importance",
    ): "The observed site \\'doc_words\\' stands in several plates, \\'documents\\' (dim=-1, size 20), \\'words\\' (dim=-2, size 8), none of them called \\'data\\'. Call that of the data so, and put it at the right: pyro.plate(\"data\", l",
    ("LDA, mini-batches", "importance"): "TypeError: 'int' object is not subscriptable",
    ("ProdLDA", "importance"): "RuntimeError: running_mean should contain 20 elements not 10",
    (
        "sparse gamma DEF, EasyGuide",
        "importance",
    ): "The plate \\'w_top_plate\\' has size 12 in the model and -1 in the guide. Size both by the batch: pyro.plate(\"w_top_plate\", len(x)). The plate \\'w_bottom_plate\\' has size 40 in the model and -1 in the guide. Size both by t",
    (
        "AIR",
        "importance",
    ): "RuntimeError: expand(torch.FloatTensor{[30, 3]}, size=[10]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)",
    (
        "conditional VAE",
        "train",
    ): "unrecognized arguments: --covariates 16,17,18. `pyro-vae train --help` tells the options.",
    (
        "ProdLDA",
        "train",
    ): "'data' holds counts from 0 to 8, on which the likelihood Multinomial is not defined. Leave the likelihood out, and it follows the data, or choose one of pyro_vae.likelihoods that fits.",
    (
        "AIR",
        "train",
    ): "With two particles the guide fails (RuntimeError: expand(torch.FloatTensor{[2, 3]}, size=[4]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)).",
    (
        "conditional VAE",
        "plot",
    ): "unrecognized arguments: --covariates 16,17,18. `pyro-vae train --help` tells the options.",
    (
        "conditional VAE",
        "evaluate",
    ): "unrecognized arguments: --covariates 16,17,18. `pyro-vae train --help` tells the options.",
    (
        "ProdLDA",
        "plot",
    ): "'data' holds counts from 0 to 8, on which the likelihood Multinomial is not defined. Leave the likelihood out, and it follows the data, or choose one of pyro_vae.likelihoods that fits.",
    (
        "ProdLDA",
        "evaluate",
    ): "'data' holds counts from 0 to 8, on which the likelihood Multinomial is not defined. Leave the likelihood out, and it follows the data, or choose one of pyro_vae.likelihoods that fits.",
    (
        "AIR",
        "plot",
    ): "With two particles the guide fails (RuntimeError: expand(torch.FloatTensor{[2, 3]}, size=[4]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)).",
    (
        "AIR",
        "evaluate",
    ): "With two particles the guide fails (RuntimeError: expand(torch.FloatTensor{[2, 3]}, size=[4]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)).",
}
