//! The types that a network can be computed in.

use half::bf16;
use mobilenet_kernels::bf16::PackedBf16;
use mobilenet_kernels::gemm::{self, Epilogue, MatrixMut, MatrixRef, PackedB};
use mobilenet_kernels::{Element, Isa};

/// What feature maps and the weights of products are kept in while a network runs. Sums are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32 bits: the reference.
    #[default]
    F32,
    /// 16 bits (bfloat16), as near as two to three digits: half the memory traffic, and on machines
    /// with AMX many times the arithmetic. The same results, up to rounding, on every machine.
    Bf16,
}

impl Precision {
    /// `f32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::F32, Self::Bf16];
        all.into_iter()
            .find(|precision| precision.name() == name)
            .ok_or_else(|| format!("found precision {name}, expected f32 or bf16"))
    }
}

/// A type that inference can keep its feature maps in, with the product that belongs to it.
pub(super) trait Number: Element {
    /// A product's right side.
    type Packed: std::fmt::Debug + Send + Sync;

    /// The weights `shape` = `[n, k]`, each row multiplied with its own factor.
    fn pack(isa: Isa, shape: (usize, usize), weights: &[f32], scale: Option<&[f64]>) -> Self::Packed;

    /// Columns of a product that are computed together.
    fn column_step(isa: Isa) -> usize;

    /// The row stride for matrices of so many columns.
    fn padded_stride(isa: Isa, columns: usize) -> usize;

    /// A pixel stride that is odd in cache lines, where pixels are many: see
    /// [`mobilenet_kernels::depthwise::pixel_stride`].
    fn pixel_stride(channels: usize) -> usize {
        let line = 64 / size_of::<Self>();
        if channels < 8 * line { channels } else { (channels.div_ceil(line) | 1) * line }
    }

    /// See [`gemm::gemm`].
    fn multiply(
        a: MatrixRef<Self>,
        b: &Self::Packed,
        first_column: usize,
        c: MatrixMut<Self>,
        epilogue: Epilogue,
    );

    /// The same with results in f32.
    fn multiply_to_f32(
        a: MatrixRef<Self>,
        b: &Self::Packed,
        first_column: usize,
        c: MatrixMut,
        epilogue: Epilogue,
    );
}

impl Number for f32 {
    type Packed = PackedB;

    fn pack(isa: Isa, (n, k): (usize, usize), weights: &[f32], scale: Option<&[f64]>) -> PackedB {
        let mut packed = PackedB::new(isa, k, n);
        match scale {
            Some(scale) => packed.pack_transposed_scaled(weights, scale),
            None => packed.pack_transposed(weights),
        }
        packed
    }

    fn column_step(isa: Isa) -> usize {
        gemm::column_step(isa)
    }

    fn padded_stride(isa: Isa, columns: usize) -> usize {
        gemm::padded_stride(isa, columns)
    }

    fn multiply(a: MatrixRef, b: &PackedB, first_column: usize, c: MatrixMut, epilogue: Epilogue) {
        gemm::gemm(a, b, first_column, c, epilogue);
    }

    fn multiply_to_f32(a: MatrixRef, b: &PackedB, first_column: usize, c: MatrixMut, epilogue: Epilogue) {
        gemm::gemm(a, b, first_column, c, epilogue);
    }
}

impl Number for bf16 {
    type Packed = PackedBf16;

    fn pack(isa: Isa, (n, k): (usize, usize), weights: &[f32], scale: Option<&[f64]>) -> PackedBf16 {
        let mut packed = PackedBf16::new(isa, k, n);
        match scale {
            Some(scale) => packed.pack_transposed_scaled(weights, scale),
            None => packed.pack_transposed(weights),
        }
        packed
    }

    fn column_step(isa: Isa) -> usize {
        mobilenet_kernels::bf16::column_step(isa)
    }

    fn padded_stride(isa: Isa, columns: usize) -> usize {
        mobilenet_kernels::bf16::padded_stride(isa, columns)
    }

    fn multiply(
        a: MatrixRef<bf16>,
        b: &PackedBf16,
        first_column: usize,
        c: MatrixMut<bf16>,
        epilogue: Epilogue,
    ) {
        mobilenet_kernels::bf16::gemm(a, b, first_column, c, epilogue);
    }

    fn multiply_to_f32(
        a: MatrixRef<bf16>,
        b: &PackedBf16,
        first_column: usize,
        c: MatrixMut,
        epilogue: Epilogue,
    ) {
        mobilenet_kernels::bf16::gemm(a, b, first_column, c, epilogue);
    }
}
