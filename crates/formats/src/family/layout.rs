//! From other projects' tensor layouts to PyTorch's, which are ours.

use mobilenet::Tensor;

/// How a tensor is laid out in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As ours: `[out, in, H, W]`, `[channels, 1, H, W]`, `[outputs, features]`, vectors.
    Torch,
    /// TensorFlow's convolution: `[H, W, in, out]`.
    Hwio,
    /// TensorFlow's depthwise convolution: `[H, W, channels, 1]`.
    Hwc1,
    /// TensorFlow's classifier: `[features, outputs]`, or `[1, 1, features, outputs]`.
    FeaturesOutputs,
    /// A classifier that may be a 1×1 convolution: `[outputs, features]` or
    /// `[outputs, features, 1, 1]`.
    OutputsFeatures,
}

/// The tensor in our layout. One whose number of dimensions does not fit stays as it is, so that the
/// check of shapes can name it.
pub fn to_ours(layout: Layout, tensor: Tensor) -> Tensor {
    let shape = tensor.shape().to_vec();
    match (layout, shape.as_slice()) {
        (Layout::Hwio, &[_, _, _, _]) => permute(&tensor, [3, 2, 0, 1]),
        (Layout::Hwc1, &[_, _, _, 1]) => permute(&tensor, [2, 3, 0, 1]),
        (Layout::FeaturesOutputs, &[1, 1, features, outputs] | &[features, outputs]) => {
            let flat = permute(&reshaped(tensor, &[1, 1, features, outputs]), [3, 2, 0, 1]);
            reshaped(flat, &[outputs, features])
        }
        (Layout::OutputsFeatures, &[outputs, features, 1, 1]) => reshaped(tensor, &[outputs, features]),
        _ => tensor,
    }
}

/// The same values under another shape of as many.
fn reshaped(tensor: Tensor, shape: &[usize]) -> Tensor {
    Tensor::new(shape, tensor.into_data()).expect("the number of values stays")
}

/// Dimension `i` of the result is dimension `order[i]` of `tensor`, which has four.
pub(crate) fn permute(tensor: &Tensor, order: [usize; 4]) -> Tensor {
    let shape = tensor.shape();
    let strides = [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1];
    let to = order.map(|axis| shape[axis]);
    let by = order.map(|axis| strides[axis]);
    let mut data = Vec::with_capacity(tensor.data().len());
    if tensor.data().is_empty() {
        // One extent is 0; a damaged file may give any number for the others, too many to walk.
        return Tensor::new(&to, data).expect("a permutation keeps the number of values");
    }
    for a in 0..to[0] {
        for b in 0..to[1] {
            for c in 0..to[2] {
                let start = a * by[0] + b * by[1] + c * by[2];
                data.extend((0..to[3]).map(|d| tensor.data()[start + d * by[3]]));
            }
        }
    }
    Tensor::new(&to, data).expect("a permutation keeps the number of values")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value tells where it was.
    fn indexed(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        Tensor::new(shape, (0..count).map(|i| i as f32).collect()).unwrap()
    }

    #[test]
    fn a_convolution_is_turned_from_hwio_to_oihw() {
        let (h, w, i, o) = (3, 3, 2, 5);
        let ours = to_ours(Layout::Hwio, indexed(&[h, w, i, o]));
        assert_eq!(ours.shape(), [o, i, h, w]);
        for (y, x, c, k) in [(0, 0, 0, 0), (2, 1, 1, 4), (1, 2, 0, 3)] {
            let at = ((k * i + c) * h + y) * w + x;
            assert_eq!(ours.data()[at], (((y * w + x) * i + c) * o + k) as f32);
        }
    }

    #[test]
    fn a_classifier_is_transposed_whether_dense_or_1x1() {
        let dense = to_ours(Layout::FeaturesOutputs, indexed(&[2, 3]));
        assert_eq!((dense.shape(), dense.data()), (&[3, 2][..], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0][..]));
        assert_eq!(to_ours(Layout::FeaturesOutputs, indexed(&[1, 1, 2, 3])), dense);
    }

    #[test]
    fn an_empty_tensor_of_huge_extents_takes_no_time() {
        let empty = Tensor::new(&[216_172_782_113_783_811, 0, 1, 32], Vec::new()).unwrap();
        assert_eq!(to_ours(Layout::Hwio, empty).shape(), [32, 1, 216_172_782_113_783_811, 0]);
        let uncountable = [1 << 40, 1 << 40, 0, 1];
        assert!(Tensor::new(&uncountable, Vec::new()).is_err());
    }

    #[test]
    fn what_does_not_fit_is_left_for_the_check_of_shapes() {
        assert_eq!(to_ours(Layout::Hwc1, indexed(&[3, 3, 4, 2])).shape(), [3, 3, 4, 2]);
    }
}
