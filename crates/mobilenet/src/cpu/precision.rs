//! The types that a network can be computed in.

use std::ops::Range;

use half::{bf16, f16};
use mobilenet_kernels::bf16::conv::ConvFilter;
use mobilenet_kernels::bf16::{self as products, PackedBf16};
use mobilenet_kernels::conv::{self, ConvGeometry, Unpadded};
use mobilenet_kernels::gemm::{self, Ahead, Epilogue, MatrixMut, MatrixRef, PackedB, Span, Unpacked};
use mobilenet_kernels::{Buffer, Element, Isa};
use serde::{Deserialize, Serialize};

use super::Engine;
use crate::architecture::Layer;

/// What feature maps, their gradients and the weights of products are kept in while a network runs. Sums
/// are f32, and so is what training changes: weights, their gradients, statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits: the reference.
    #[default]
    F32,
    /// 16 bits (bfloat16), as near as two to three digits: half the memory traffic, and on machines
    /// with AMX many times the arithmetic. The same results, up to rounding, on every machine. (Inference keeps
    /// its feature maps in f16, bounded to ±32,768 or less: three bits more.)
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

/// What is read after a product.
pub(super) struct Next<'a, E: Number> {
    /// Weights,
    pub weights: &'a [E],
    /// values of a map,
    pub map: &'a [E::Map],
    /// or what follows the product's columns in its filter.
    pub columns: bool,
}

impl<E: Number> Default for Next<'_, E> {
    fn default() -> Self {
        Self { weights: &[], map: &[], columns: false }
    }
}

/// A type that feature maps can be kept in, with the products that belong to it.
pub(super) trait Number: Element {
    /// What the feature maps of inference are kept in, which depthwise convolutions read.
    type Map: Element;

    /// What their values are bounded to at most, so that they can be kept: half of what f16 has room for, where they
    /// are f16.
    const LARGEST: f32;

    /// A product's right side.
    type Packed: std::fmt::Debug + Send + Sync;

    /// The filter of a full convolution.
    type ConvFilter: std::fmt::Debug + Send + Sync;

    /// The filter `value([ky][kx][in], out)` of a full convolution.
    fn pack_conv(isa: Isa, layer: &Layer, value: impl Fn(usize, usize) -> f32) -> Self::ConvFilter;

    /// See [`ConvFilter::scratch_len`].
    fn conv_scratch_len(filter: &Self::ConvFilter, rows: usize, outputs: usize, pixels: usize) -> usize;

    /// See [`conv::convolve_rows`] and [`products::conv::convolve_rows`].
    fn convolve_rows<C: Element>(
        geometry: (ConvGeometry, Option<Unpadded>),
        inputs: &[[&[f32]; 3]],
        filter: &Self::ConvFilter,
        first_column: usize,
        output: MatrixMut<C>,
        epilogue: Epilogue,
        scratch: &mut Buffer<Self>,
    );

    /// Whether what inference keeps is less what it lies around: see `centre.rs`.
    const CENTRED: bool;

    /// What depthwise outputs of inference are scaled to, by powers of two.
    const DEPTHWISE_BOUND: f32;

    /// Depthwise outputs for each value of the weights that is asked for while they are computed, if it is.
    const OUTPUTS_AHEAD: Option<usize>;

    /// The classifier, packed.
    type Classifier: std::fmt::Debug + Send + Sync;

    /// How many of its `features` the classifier takes at a time, if it is cut: see [`Number::classifier_blocks`].
    fn classifier_block(features: usize) -> Option<usize>;

    /// Rows of a product's left side, in training, are cut into chunks of multiples of so many: whole
    /// tiles.
    const CHUNK_STEP: usize;

    /// Values of patches, or of results, that a stage computes at a time, where pixels are more than
    /// [`Number::FEW_PIXELS`].
    const PATCHES: usize;

    /// Feature maps of at most so many pixels are computed whole, and for several images together, if there are:
    /// their weights are many beside their pixels.
    const FEW_PIXELS: usize;

    /// See [`Number::pixel_stride`].
    const WIDE_PIXEL: usize;

    /// Feature maps of more values than this do not stay in the second-level cache beside the weights
    /// and the map before: see `strip.rs`.
    const LARGE_MAP: usize;

    /// The weights `shape` = `[n, k]`, each row multiplied with its own factor.
    fn pack(isa: Isa, shape: (usize, usize), weights: &[f32], scale: Option<&[f64]>) -> Self::Packed;

    /// The matrix `shape` = `[k, n]` of `weights`, by all threads, in the memory of `packed` where that is enough.
    fn pack_again<'a>(
        engine: &mut Engine,
        packed: &'a mut Option<Self::Packed>,
        shape: (usize, usize),
        weights: Unpacked,
    ) -> &'a Self::Packed;

    /// The matrix `shape` = `[k, n]` of `value(row, column)`.
    fn pack_with(isa: Isa, shape: (usize, usize), value: impl Fn(usize, usize) -> f32) -> Self::Packed;

    /// The classifier's weights `shape` = `[outputs, features]`.
    fn pack_classifier(isa: Isa, shape: (usize, usize), weights: &[f32]) -> Self::Classifier;

    /// The classifier of [`Number::classifier_block`] features after the other. Products with these, added in order,
    /// and then the bias, are what [`Number::classify`] gives, bit for bit.
    fn classifier_blocks(classifier: &Self::Classifier) -> &[Self::Packed];

    /// Logits, for the outputs from `first_column` on that `c` has columns for.
    fn classify(
        a: MatrixRef<Self>,
        classifier: &Self::Classifier,
        first_column: usize,
        c: MatrixMut,
        epilogue: Epilogue,
    );

    /// Columns of a product that are computed together.
    fn column_step(isa: Isa) -> usize;

    /// The row stride for matrices of so many columns.
    fn padded_stride(isa: Isa, columns: usize) -> usize;

    /// A pixel stride for maps that depthwise rows read; from [`Number::WIDE_PIXEL`] channels on it is odd in cache
    /// lines: see [`mobilenet_kernels::depthwise::pixel_stride`].
    fn pixel_stride(channels: usize) -> usize {
        let line = 64 / size_of::<Self>();
        if channels < Self::WIDE_PIXEL { channels } else { (channels.div_ceil(line) | 1) * line }
    }

    /// What a product reads of its right side for the columns from `column` on.
    fn panels(packed: &Self::Packed, column: usize) -> &[Self];

    /// See [`gemm::gemm`].
    fn multiply(
        a: MatrixRef<Self>,
        b: &Self::Packed,
        first_column: usize,
        c: MatrixMut<Self>,
        epilogue: Epilogue,
    );

    /// The same with results for a feature map. Where it helps, `next` is asked for meanwhile.
    fn multiply_to_map(
        a: MatrixRef<Self>,
        b: &Self::Packed,
        first_column: usize,
        c: MatrixMut<Self::Map>,
        epilogue: Epilogue,
        next: Next<Self>,
    );

    /// [`Number::multiply`] with results in f32.
    fn multiply_to_f32(
        a: MatrixRef<Self>,
        b: &Self::Packed,
        first_column: usize,
        c: MatrixMut,
        epilogue: Epilogue,
    );

    /// C = A·B. Where it helps, `ahead`, which is read or written next, is asked for meanwhile.
    fn multiply_ahead(a: MatrixRef<Self>, b: &Self::Packed, c: MatrixMut<Self>, ahead: [&[Self]; 2]);

    /// Blocks of columns in which a product of [`Number::transposed`] lies, as
    /// [`gemm::transposed_blocks`] has them.
    fn transposed_blocks(isa: Isa, shape: (usize, usize)) -> Vec<Range<usize>>;

    /// C = Aᵀ·B, or C += Aᵀ·B where C has something to be added to, over the rows that A and B share, B's at
    /// [`Number::padded_stride`], C in [`Number::transposed_blocks`]; `scratch` is memory to work in, `ahead` as in
    /// [`Number::multiply_ahead`].
    fn transposed(
        isa: Isa,
        a: MatrixRef<Self>,
        b: MatrixRef<Self>,
        c: (&mut [f32], bool),
        scratch: &mut Buffer,
        ahead: [&[Self]; 2],
    );
}

/// Blocks that the f32 classifier of so many features is cut into.
pub(super) fn classifier_blocks(features: usize) -> usize {
    f32::classifier_block(features).map_or(1, |block| features.div_ceil(block))
}

/// Block `index` of the f32 classifier's `weights`, `[outputs, features]`.
pub(super) fn pack_classifier_block(
    (outputs, features): (usize, usize),
    weights: &[f32],
    index: usize,
    packed: &mut PackedB,
) {
    let block = f32::classifier_block(features).unwrap_or(features);
    let first = index * block;
    packed.reshape(block.min(features - first), outputs);
    packed.pack_with(|feature, output| weights[output * features + first + feature]);
}

impl Number for f32 {
    type Map = f32;
    const LARGEST: f32 = f32::INFINITY;
    type Packed = PackedB;
    type ConvFilter = PackedB;

    const CENTRED: bool = false;
    const DEPTHWISE_BOUND: f32 = f32::INFINITY;
    const OUTPUTS_AHEAD: Option<usize> = Some(4);
    type Classifier = Vec<PackedB>;
    // 128 KB, of which what is read again lies in the caches near; and weights are read again from the second level
    // as fast as they are multiplied with.
    const PATCHES: usize = 32 * 1024;
    const FEW_PIXELS: usize = 49;
    const WIDE_PIXEL: usize = 64;
    // 1.2 MB.
    const LARGE_MAP: usize = 300 * 1024;

    fn pack_conv(isa: Isa, layer: &Layer, value: impl Fn(usize, usize) -> f32) -> PackedB {
        let mut packed = PackedB::new(isa, 9 * layer.input.channels, layer.output.channels);
        packed.pack_with(value);
        packed
    }

    fn conv_scratch_len(_: &PackedB, _: usize, _: usize, _: usize) -> usize {
        0
    }

    fn convolve_rows<C: Element>(
        geometry: (ConvGeometry, Option<Unpadded>),
        inputs: &[[&[f32]; 3]],
        filter: &PackedB,
        first_column: usize,
        output: MatrixMut<C>,
        epilogue: Epilogue,
        _: &mut Buffer,
    ) {
        conv::convolve_rows(geometry, inputs, filter, first_column, output, epilogue);
    }

    // Whole tiles of 14 rows, and little over for tiles of 6.
    const CHUNK_STEP: usize = 56;

    fn pack(isa: Isa, (n, k): (usize, usize), weights: &[f32], scale: Option<&[f64]>) -> PackedB {
        let mut packed = PackedB::new(isa, k, n);
        match scale {
            Some(scale) => packed.pack_transposed_scaled(weights, scale),
            None => packed.pack_transposed(weights),
        }
        packed
    }

    fn pack_again<'a>(
        engine: &mut Engine,
        packed: &'a mut Option<PackedB>,
        (k, n): (usize, usize),
        weights: Unpacked,
    ) -> &'a PackedB {
        let packed = packed.get_or_insert_with(|| PackedB::new(engine.isa, k, n));
        packed.reshape(k, n);
        packed.pack_on(&mut engine.pool, weights);
        packed
    }

    fn pack_with(isa: Isa, (k, n): (usize, usize), value: impl Fn(usize, usize) -> f32) -> PackedB {
        let mut packed = PackedB::new(isa, k, n);
        packed.pack_with(value);
        packed
    }

    fn classifier_block(features: usize) -> Option<usize> {
        // Three panels where vectors are widest: two tiles of the last product. Of few features two threads should have
        // as many.
        Some(if features < 512 { 64 } else { 96 })
    }

    fn pack_classifier(isa: Isa, shape: (usize, usize), weights: &[f32]) -> Vec<PackedB> {
        let mut blocks = vec![PackedB::new(isa, 0, 0); classifier_blocks(shape.1)];
        for (index, block) in blocks.iter_mut().enumerate() {
            pack_classifier_block(shape, weights, index, block);
        }
        blocks
    }

    fn classifier_blocks(classifier: &Vec<PackedB>) -> &[PackedB] {
        classifier
    }

    fn classify(
        a: MatrixRef,
        classifier: &Vec<PackedB>,
        first_column: usize,
        mut c: MatrixMut,
        epilogue: Epilogue,
    ) {
        let mut first = 0;
        for (index, block) in classifier.iter().enumerate() {
            let a = a.some_columns(first..first + block.k());
            first += block.k();
            let epilogue = if index + 1 < classifier.len() { Epilogue::default() } else { epilogue };
            match index {
                0 => gemm::gemm(a, block, first_column, c.reborrow(), epilogue),
                _ => gemm::gemm_accumulate(a, block, first_column, c.reborrow(), epilogue),
            }
        }
    }

    fn column_step(isa: Isa) -> usize {
        gemm::column_step(isa)
    }

    fn padded_stride(isa: Isa, columns: usize) -> usize {
        gemm::padded_stride(isa, columns)
    }

    fn panels(packed: &PackedB, column: usize) -> &[f32] {
        packed.panels(column)
    }

    fn multiply(a: MatrixRef, b: &PackedB, first_column: usize, c: MatrixMut, epilogue: Epilogue) {
        gemm::gemm(a, b, first_column, c, epilogue);
    }

    fn multiply_to_map(
        a: MatrixRef,
        b: &PackedB,
        first_column: usize,
        c: MatrixMut,
        epilogue: Epilogue,
        Next { weights, map, columns }: Next<f32>,
    ) {
        let ahead = Ahead { values: [Span::of(weights), Span::of(map)], columns };
        gemm::gemm_ahead(a, b, first_column, c, epilogue, ahead);
    }

    fn multiply_to_f32(a: MatrixRef, b: &PackedB, first_column: usize, c: MatrixMut, epilogue: Epilogue) {
        gemm::gemm(a, b, first_column, c, epilogue);
    }

    fn multiply_ahead(a: MatrixRef, b: &PackedB, c: MatrixMut, ahead: [&[f32]; 2]) {
        gemm::gemm_ahead(a, b, 0, c, Epilogue::default(), Ahead::of(ahead));
    }

    fn transposed_blocks(isa: Isa, (rows, columns): (usize, usize)) -> Vec<Range<usize>> {
        gemm::transposed_blocks(isa, rows, columns)
    }

    fn transposed(
        isa: Isa,
        a: MatrixRef,
        b: MatrixRef,
        (c, accumulate): (&mut [f32], bool),
        _: &mut Buffer,
        ahead: [&[f32]; 2],
    ) {
        gemm::gemm_transposed_blocks(isa, a, b, (c, accumulate), Ahead::of(ahead));
    }
}

impl Number for bf16 {
    // Three bits more than bf16 has, of which these values, bounded and near zero, do not need the range; and
    // where there is AVX512-FP16, sums of twice as many a vector.
    type Map = f16;
    const LARGEST: f32 = 32_768.0;
    type Packed = PackedBf16;
    type ConvFilter = ConvFilter;

    const CENTRED: bool = true;
    // Such are stored faster: see `depthwise::RowEpilogue::half_sums`.
    const DEPTHWISE_BOUND: f32 = 1.875;
    // (With AMX it is the faster.)
    const OUTPUTS_AHEAD: Option<usize> = None;
    type Classifier = PackedBf16;
    // 256 KB. (With tiles it is the weights that would be waited for.)
    const PATCHES: usize = 128 * 1024;
    // (Maps are half as large, and with tiles weights are soon what is waited for.)
    const FEW_PIXELS: usize = 196;
    const WIDE_PIXEL: usize = 256;
    // 0.6 MB.
    const LARGE_MAP: usize = 300 * 1024;

    fn pack_conv(isa: Isa, layer: &Layer, value: impl Fn(usize, usize) -> f32) -> ConvFilter {
        let geometry = (layer.input.channels, layer.dilation);
        ConvFilter::new(isa, geometry, layer.output.channels, value)
    }

    fn conv_scratch_len(filter: &ConvFilter, rows: usize, outputs: usize, pixels: usize) -> usize {
        filter.scratch_len(rows, outputs, pixels)
    }

    fn convolve_rows<C: Element>(
        geometry: (ConvGeometry, Option<Unpadded>),
        inputs: &[[&[f32]; 3]],
        filter: &ConvFilter,
        first_column: usize,
        output: MatrixMut<C>,
        epilogue: Epilogue,
        scratch: &mut Buffer<bf16>,
    ) {
        products::conv::convolve_rows(geometry, inputs, filter, first_column, output, epilogue, scratch);
    }

    // Whole tiles of 16 rows, two by two.
    const CHUNK_STEP: usize = 64;

    fn pack(isa: Isa, (n, k): (usize, usize), weights: &[f32], scale: Option<&[f64]>) -> PackedBf16 {
        let mut packed = PackedBf16::new(isa, k, n);
        match scale {
            Some(scale) => packed.pack_transposed_scaled(weights, scale),
            None => packed.pack_transposed(weights),
        }
        packed
    }

    fn pack_again<'a>(
        engine: &mut Engine,
        packed: &'a mut Option<PackedBf16>,
        (k, n): (usize, usize),
        weights: Unpacked,
    ) -> &'a PackedBf16 {
        let packed = packed.get_or_insert_with(|| PackedBf16::new(engine.isa, k, n));
        packed.reshape(k, n);
        packed.pack_on(&mut engine.pool, weights);
        packed
    }

    fn pack_with(isa: Isa, (k, n): (usize, usize), value: impl Fn(usize, usize) -> f32) -> PackedBf16 {
        let mut packed = PackedBf16::new(isa, k, n);
        packed.pack_with(value);
        packed
    }

    fn classifier_block(_: usize) -> Option<usize> {
        // (The last product is itself waiting for its weights.)
        None
    }

    fn pack_classifier(isa: Isa, shape: (usize, usize), weights: &[f32]) -> PackedBf16 {
        Self::pack(isa, shape, weights, None)
    }

    fn classifier_blocks(classifier: &PackedBf16) -> &[PackedBf16] {
        std::slice::from_ref(classifier)
    }

    fn classify(
        a: MatrixRef<bf16>,
        classifier: &PackedBf16,
        first_column: usize,
        c: MatrixMut,
        epilogue: Epilogue,
    ) {
        Self::multiply_to_f32(a, classifier, first_column, c, epilogue);
    }

    fn column_step(isa: Isa) -> usize {
        products::column_step(isa)
    }

    fn padded_stride(isa: Isa, columns: usize) -> usize {
        products::padded_stride(isa, columns)
    }

    fn panels(packed: &PackedBf16, column: usize) -> &[bf16] {
        packed.panels(column)
    }

    fn multiply(
        a: MatrixRef<bf16>,
        b: &PackedBf16,
        first_column: usize,
        c: MatrixMut<bf16>,
        epilogue: Epilogue,
    ) {
        products::gemm(a, b, first_column, c, epilogue);
    }

    fn multiply_to_map(
        a: MatrixRef<bf16>,
        b: &PackedBf16,
        first_column: usize,
        c: MatrixMut<f16>,
        epilogue: Epilogue,
        Next { weights, map, columns }: Next<bf16>,
    ) {
        let ahead = Ahead { values: [Span::of(weights), Span::of(map)], columns };
        products::gemm_ahead(a, b, first_column, c, epilogue, ahead);
    }

    fn multiply_to_f32(
        a: MatrixRef<bf16>,
        b: &PackedBf16,
        first_column: usize,
        c: MatrixMut,
        epilogue: Epilogue,
    ) {
        products::gemm(a, b, first_column, c, epilogue);
    }

    fn multiply_ahead(a: MatrixRef<bf16>, b: &PackedBf16, c: MatrixMut<bf16>, ahead: [&[bf16]; 2]) {
        products::gemm_ahead(a, b, 0, c, Epilogue::default(), Ahead::of(ahead));
    }

    fn transposed_blocks(_: Isa, (_, columns): (usize, usize)) -> Vec<Range<usize>> {
        std::iter::once(0..columns).collect()
    }

    fn transposed(
        isa: Isa,
        a: MatrixRef<bf16>,
        b: MatrixRef<bf16>,
        (c, accumulate): (&mut [f32], bool),
        scratch: &mut Buffer,
        _: [&[bf16]; 2],
    ) {
        let c = MatrixMut::new(c, a.columns(), b.columns(), b.columns());
        products::gemm_transposed(isa, a, b, (c, accumulate), scratch);
    }
}
