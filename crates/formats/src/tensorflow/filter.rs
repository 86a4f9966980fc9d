//! The layouts of filters.

use mobilenet::Tensor;

use super::network::FilterLayout;

/// Whether a layout is a depthwise filter's.
pub(crate) fn is_depthwise(layout: FilterLayout) -> bool {
    matches!(layout, FilterLayout::Hwcm | FilterLayout::OneHwc)
}

/// A filter as `[out, in, k, k]`, a depthwise one as `[channels, 1, k, k]`; none where it has not
/// four dimensions, or a depthwise one more than one filter a channel.
pub(crate) fn to_pytorch(filter: &Tensor, layout: FilterLayout) -> Option<Tensor> {
    let &[a, b, c, d] = filter.shape() else { return None };
    if filter.data().is_empty() {
        return None;
    }
    // Sides, and the step of each in the file's order: out, in, row, column.
    let (shape, steps) = match layout {
        FilterLayout::Hwio => ([d, c, a, b], [1, d, b * c * d, c * d]),
        FilterLayout::Hwcm if d == 1 => ([c, 1, a, b], [1, 0, b * c, c]),
        FilterLayout::Ohwi => ([a, d, b, c], [b * c * d, 1, c * d, d]),
        FilterLayout::OneHwc if a == 1 => ([d, 1, b, c], [1, 0, c * d, d]),
        _ => return None,
    };
    let data = filter.data();
    let mut turned = Vec::with_capacity(data.len());
    for out in 0..shape[0] {
        for input in 0..shape[1] {
            for row in 0..shape[2] {
                let start = out * steps[0] + input * steps[1] + row * steps[2];
                turned.extend((0..shape[3]).map(|column| data[start + column * steps[3]]));
            }
        }
    }
    Tensor::new(&shape, turned).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layout_is_turned() {
        // Each value names its own place: out, in, row, column.
        let place = |o: usize, i: usize, r: usize, c: usize| (o * 1000 + i * 100 + r * 10 + c) as f32;
        let (out, inputs, k) = (3, 2, 3);
        let mut hwio = Vec::new();
        for (r, c, i, o) in each([k, k, inputs, out]) {
            hwio.push(place(o, i, r, c));
        }
        let mut ohwi = Vec::new();
        for (o, r, c, i) in each([out, k, k, inputs]) {
            ohwi.push(place(o, i, r, c));
        }
        let mut depthwise = Vec::new();
        for (r, c, o, _) in each([k, k, out, 1]) {
            depthwise.push(place(o, 0, r, c));
        }
        let full: Vec<f32> = each([out, inputs, k, k]).map(|(o, i, r, c)| place(o, i, r, c)).collect();
        let single: Vec<f32> = each([out, 1, k, k]).map(|(o, i, r, c)| place(o, i, r, c)).collect();
        let turn = |shape: &[usize], data: Vec<f32>, layout| {
            to_pytorch(&Tensor::new(shape, data).unwrap(), layout).unwrap()
        };
        let (full_shape, single_shape) = ([out, inputs, k, k], [out, 1, k, k]);
        let found = turn(&[k, k, inputs, out], hwio, FilterLayout::Hwio);
        assert_eq!(found, Tensor::new(&full_shape, full.clone()).unwrap());
        let found = turn(&[out, k, k, inputs], ohwi, FilterLayout::Ohwi);
        assert_eq!(found, Tensor::new(&full_shape, full).unwrap());
        let found = turn(&[k, k, out, 1], depthwise.clone(), FilterLayout::Hwcm);
        assert_eq!(found, Tensor::new(&single_shape, single.clone()).unwrap());
        let found = turn(&[1, k, k, out], depthwise, FilterLayout::OneHwc);
        assert_eq!(found, Tensor::new(&single_shape, single).unwrap());
    }

    fn each([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        (0..a * b * c * d).map(move |n| (n / (b * c * d), n / (c * d) % b, n / d % c, n % d))
    }
}
