"""How many graphs torch.compile makes of a model."""

import torch


def counted_graphs(model: torch.nn.Module, backend: str):
    """The model compiled by `backend`, and a list that grows by one with each graph handed to it."""
    graphs = []
    compiler = torch._dynamo.lookup_backend(backend)

    def counting(graph, inputs, **options):
        graphs.append(graph)
        return compiler(graph, inputs, **options)

    return torch.compile(model, backend=counting, fullgraph=True), graphs
