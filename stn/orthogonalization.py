"""Nearly orthogonal matrices with the singular vectors of given ones, by the iteration of Muon."""

import torch
from torch import Tensor

# Coefficients of a quintic polynomial that moves all singular values toward one in five steps, but not exactly to one:
# Jordan et al. (2024), "Coefficient optimization".
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return a matrix (m, n) with the singular vectors of ``matrix`` and singular values of about 0.7 to 1.2.

    Uses the Newton-Schulz iteration of Jordan et al. (2024). If m > n, the result is multiplied by √(m / n). The
    relative change of the outputs in a step is then the same for all shapes.
    """
    a, b, c = COEFFICIENTS
    rows, columns = matrix.shape
    wide = matrix.T if rows > columns else matrix
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T * (rows / columns) ** 0.5 if rows > columns else wide


def orthogonalize_stack(matrices: Tensor, factors: Tensor, identity: Tensor) -> Tensor:
    """Orthogonalize wide matrices (M, R, C) and multiply them by ``factors`` (M,).

    Rows of zeros stay zero. ``identity`` is the identity matrix for each of them, (M, R, R).

    The iteration of :func:`orthogonalize` multiplies a matrix X from the left by polynomials of its Gram matrix
    X Xᵀ. All of them commute. They are therefore computed and multiplied for the Gram matrices alone, which are
    smaller, and X is multiplied once.
    """
    a, b, c = COEFFICIENTS
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    matrices = matrices / (norms + 1e-7)
    gram = torch.bmm(matrices, matrices.mT)
    constant = a * identity

    def polynomial(gram: Tensor) -> Tensor:
        # In place: baddbmm first copies a sum that it must not overwrite.
        return torch.add(constant, gram, alpha=b).baddbmm_(gram, gram, alpha=c)

    factor = product = polynomial(gram)  # what a step multiplies the matrices by, and the product of all steps
    for _ in range(STEPS - 1):
        gram = torch.bmm(factor, torch.bmm(factor, gram))
        factor = polynomial(gram)
        product = torch.bmm(factor, product)
    return torch.bmm(product * factors[:, None, None], matrices)
