"""What of today's code refuses a program or fails on it, by program and aspect, with the sentence that is seen.

A test of such a line has to fail; who mends it deletes the line.
"""

# ruff: noqa: E501

FAULTS: dict[tuple[str, str], str] = {
    (
        "VAE",
        "check",
    ): "PairError: At the observed site 'obs' the data leave the support of the Bernoulli likelihood: values in [0.001236, 0.9971] are outside of it. Gray pixels are no Bernoulli draws: load the data with binarization='dynamic' ",
    (
        "conditional VAE",
        "check",
    ): "PairError: With two particles the model fails (RuntimeError: Tensors must have same number of dimensions: got 3 and 2).",
    (
        "semi-supervised VAE",
        "check",
    ): "PairError: At the observed site 'x' the data leave the support of the Bernoulli likelihood: values in [0.001236, 0.9971] are outside of it. Gray pixels are no Bernoulli draws: load the data with binarization='dynamic' or",
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
        "CEVAE",
        "check",
    ): "PairError: The guide has the site 't', which the model observes. A guide draws the latents only: remove 't' from it. The guide has the site 'y', which the model observes. A guide draws the latents only: remove 'y' from i",
    (
        "scANVI, labels",
        "check",
    ): "PairError: The guide has the factor or observation 'classification_loss', which would count as a part of log q(z | x). If it lowers the bound on purpose, write pyro_vae.pair.penalty(name, value); the density of a transfo",
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
    (
        "VAE",
        "fit",
    ): "PairError: At the observed site 'obs' the data leave the support of the Bernoulli likelihood: values in [0.001236, 0.9971] are outside of it. Gray pixels are no Bernoulli draws: load the data with binarization='dynamic' ",
    (
        "semi-supervised VAE",
        "fit",
    ): "PairError: At the observed site 'x' the data leave the support of the Bernoulli likelihood: values in [0.001236, 0.9971] are outside of it. Gray pixels are no Bernoulli draws: load the data with binarization='dynamic' or",
    (
        "HMM, loops",
        "fit",
    ): "PairError: With two particles the model fails (IndexError: index 2 is out of bounds for dimension 0 with size 2).",
    (
        "HMM, plates",
        "fit",
    ): "PairError: The observed site 'y_0' stands in several plates, 'sequences' (dim=-2, size 4), 'tones' (dim=-1, size 4), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\", len(x",
    (
        "LDA",
        "fit",
    ): "PairError: The observed site 'doc_words' stands in several plates, 'documents' (dim=-1, size 20), 'words' (dim=-2, size 8), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\"",
    (
        "LDA, mini-batches",
        "fit",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'int']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "sparse gamma DEF, EasyGuide",
        "fit",
    ): "PairError: The plate 'w_top_plate' has size 12 in the model and -1 in the guide. Size both by the batch: pyro.plate(\"w_top_plate\", len(x)). The plate 'w_bottom_plate' has size 40 in the model and -1 in the guide. Size bo",
    (
        "CEVAE",
        "fit",
    ): "TypeError: estimator is a TraceCausalEffect_ELBO; fit takes an estimator of this library, such as SGVB_A() or IWAE(5). Pyro's own ELBOs go with pyro.infer.SVI.",
    ("scANVI, no labels", "fit"): "the default is SGVB_A, which draws y and trains on other losses than TraceEnum_ELBO",
    (
        "scANVI, labels",
        "fit",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'Tensor', 'float']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "Gaussian mixture",
        "fit",
    ): "PairError: With two particles the model fails (RuntimeError: The size of tensor a (30) must match the size of tensor b (2) at non-singleton dimension 1).",
    (
        "VAE",
        "parameters",
    ): "PairError: At the observed site 'obs' the data leave the support of the Bernoulli likelihood: values in [0.001236, 0.9971] are outside of it. Gray pixels are no Bernoulli draws: load the data with binarization='dynamic' ",
    (
        "semi-supervised VAE",
        "parameters",
    ): "PairError: At the observed site 'x' the data leave the support of the Bernoulli likelihood: values in [0.001236, 0.9971] are outside of it. Gray pixels are no Bernoulli draws: load the data with binarization='dynamic' or",
    (
        "HMM, loops",
        "parameters",
    ): "PairError: With two particles the model fails (IndexError: index 2 is out of bounds for dimension 0 with size 2).",
    (
        "HMM, plates",
        "parameters",
    ): "PairError: The observed site 'y_0' stands in several plates, 'sequences' (dim=-2, size 4), 'tones' (dim=-1, size 4), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\", len(x",
    (
        "LDA",
        "parameters",
    ): "PairError: The observed site 'doc_words' stands in several plates, 'documents' (dim=-1, size 20), 'words' (dim=-2, size 8), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\"",
    (
        "LDA, mini-batches",
        "parameters",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'int']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "sparse gamma DEF, EasyGuide",
        "parameters",
    ): "PairError: The plate 'w_top_plate' has size 12 in the model and -1 in the guide. Size both by the batch: pyro.plate(\"w_top_plate\", len(x)). The plate 'w_bottom_plate' has size 40 in the model and -1 in the guide. Size bo",
    (
        "CEVAE",
        "parameters",
    ): "TypeError: estimator is a TraceCausalEffect_ELBO; fit takes an estimator of this library, such as SGVB_A() or IWAE(5). Pyro's own ELBOs go with pyro.infer.SVI.",
    (
        "scANVI, labels",
        "parameters",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'Tensor', 'float']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "Gaussian mixture",
        "parameters",
    ): "PairError: With two particles the model fails (RuntimeError: The size of tensor a (30) must match the size of tensor b (2) at non-singleton dimension 1).",
    (
        "VAE",
        "state",
    ): "PairError: At the observed site 'obs' the data leave the support of the Bernoulli likelihood: values in [0.001236, 0.9971] are outside of it. Gray pixels are no Bernoulli draws: load the data with binarization='dynamic' ",
    (
        "semi-supervised VAE",
        "state",
    ): "PairError: At the observed site 'x' the data leave the support of the Bernoulli likelihood: values in [0.001236, 0.9971] are outside of it. Gray pixels are no Bernoulli draws: load the data with binarization='dynamic' or",
    (
        "HMM, loops",
        "state",
    ): "PairError: With two particles the model fails (IndexError: index 2 is out of bounds for dimension 0 with size 2).",
    (
        "HMM, plates",
        "state",
    ): "PairError: The observed site 'y_0' stands in several plates, 'sequences' (dim=-2, size 4), 'tones' (dim=-1, size 4), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\", len(x",
    (
        "LDA",
        "state",
    ): "PairError: The observed site 'doc_words' stands in several plates, 'documents' (dim=-1, size 20), 'words' (dim=-2, size 8), none of them called 'data'. Call that of the data so, and put it at the right: pyro.plate(\"data\"",
    (
        "LDA, mini-batches",
        "state",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'int']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "sparse gamma DEF, EasyGuide",
        "state",
    ): "PairError: The plate 'w_top_plate' has size 12 in the model and -1 in the guide. Size both by the batch: pyro.plate(\"w_top_plate\", len(x)). The plate 'w_bottom_plate' has size 40 in the model and -1 in the guide. Size bo",
    (
        "CEVAE",
        "state",
    ): "TypeError: estimator is a TraceCausalEffect_ELBO; fit takes an estimator of this library, such as SGVB_A() or IWAE(5). Pyro's own ELBOs go with pyro.infer.SVI.",
    (
        "scANVI, labels",
        "state",
    ): "TypeError: the loader of 'data' gives a list of ['Tensor', 'Tensor', 'float']; a tensor x or a tuple of tensors (x, ...) was expected. Convert in the Dataset or in the loader's collate_fn.",
    (
        "Gaussian mixture",
        "state",
    ): "PairError: With two particles the model fails (RuntimeError: The size of tensor a (30) must match the size of tensor b (2) at non-singleton dimension 1).",
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
        "scANVI, labels",
        "Enumeration",
    ): "ValueError: The guide has the factor or observation 'classification_loss', which would count as a part of log q(z | x). If it lowers the bound on purpose, write pyro_vae.pair.penalty(name, value); the density of a transf",
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
        "scANVI, labels",
        "Enumeration(3)",
    ): "ValueError: The guide has the factor or observation 'classification_loss', which would count as a part of log q(z | x). If it lowers the bound on purpose, write pyro_vae.pair.penalty(name, value); the density of a transf",
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
    (
        "VAE",
        "importance",
    ): "ValueError: At the observed site 'obs' the data leave the support of the Bernoulli likelihood: values in [0.001236, 0.9971] are outside of it. Gray pixels are no Bernoulli draws: load the data with binarization='dynamic'",
    ("conditional VAE", "importance"): "RuntimeError: Tensors must have same number of dimensions: got 3 and 2",
    (
        "semi-supervised VAE",
        "importance",
    ): "ValueError: At the observed site 'x' the data leave the support of the Bernoulli likelihood: values in [0.001236, 0.9971] are outside of it. Gray pixels are no Bernoulli draws: load the data with binarization='dynamic' o",
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
        "CEVAE",
        "importance",
    ): "ValueError: The guide has the site 't', which the model observes. A guide draws the latents only: remove 't' from it. The guide has the site 'y', which the model observes. A guide draws the latents only: remove 'y' from ",
    ("scANVI, labels", "importance"): "TypeError: 'float' object is not subscriptable",
    (
        "AIR",
        "importance",
    ): "RuntimeError: expand(torch.FloatTensor{[30, 3]}, size=[10]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)",
    (
        "conditional VAE",
        "train",
    ): "unrecognized arguments: --covariates 16,17,18. `pyro-vae train --help` tells the options.",
    (
        "semi-supervised VAE",
        "train",
    ): "'data' holds real numbers from 0.00123602 to 0.997067, on which the likelihood Bernoulli is not defined. Leave the likelihood out, and it follows the data, or choose one of pyro_vae.likelihoods that fits.",
    (
        "ProdLDA",
        "train",
    ): "'data' holds counts from 0 to 8, on which the likelihood Multinomial is not defined. Leave the likelihood out, and it follows the data, or choose one of pyro_vae.likelihoods that fits.",
    ("CEVAE", "train"): "pyro_programs.cevae.CEVAE is no class with the methods model and guide, so it is no pair.",
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
        "semi-supervised VAE",
        "plot",
    ): "'data' holds real numbers from 0.00123602 to 0.997067, on which the likelihood Bernoulli is not defined. Leave the likelihood out, and it follows the data, or choose one of pyro_vae.likelihoods that fits.",
    (
        "semi-supervised VAE",
        "evaluate",
    ): "'data' holds real numbers from 0.00123602 to 0.997067, on which the likelihood Bernoulli is not defined. Leave the likelihood out, and it follows the data, or choose one of pyro_vae.likelihoods that fits.",
    (
        "ProdLDA",
        "plot",
    ): "'data' holds counts from 0 to 8, on which the likelihood Multinomial is not defined. Leave the likelihood out, and it follows the data, or choose one of pyro_vae.likelihoods that fits.",
    (
        "ProdLDA",
        "evaluate",
    ): "'data' holds counts from 0 to 8, on which the likelihood Multinomial is not defined. Leave the likelihood out, and it follows the data, or choose one of pyro_vae.likelihoods that fits.",
    ("CEVAE", "plot"): "pyro_programs.cevae.CEVAE is no class with the methods model and guide, so it is no pair.",
    ("CEVAE", "evaluate"): "pyro_programs.cevae.CEVAE is no class with the methods model and guide, so it is no pair.",
    (
        "AIR",
        "plot",
    ): "With two particles the guide fails (RuntimeError: expand(torch.FloatTensor{[2, 3]}, size=[4]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)).",
    (
        "AIR",
        "evaluate",
    ): "With two particles the guide fails (RuntimeError: expand(torch.FloatTensor{[2, 3]}, size=[4]): the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)).",
}
