//! Where a filter's taps lie: the one piece of arithmetic that padding, stride and dilation need.

/// Zero pixels around an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pads {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Pads {
    /// The same number of pixels on every side.
    pub fn all(pixels: usize) -> Self {
        Self { top: pixels, bottom: pixels, left: pixels, right: pixels }
    }
}

/// A square filter sliding over a batch of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Images.
    pub batch: usize,
    /// Rows of an input image.
    pub height: usize,
    /// Columns of an input image.
    pub width: usize,
    /// Height and width of the filter.
    pub kernel: usize,
    /// Pixels from one output to the next.
    pub stride: usize,
    /// Pixels from one tap to the next.
    pub dilation: usize,
    /// Zero padding.
    pub pads: Pads,
}

/// One tap of the filter over one pixel: which output it feeds, which input it reads.
#[derive(Clone, Copy, Debug)]
pub struct Tap {
    /// Index of the output pixel among all of the batch.
    pub output: usize,
    /// Index of the input pixel among all of the batch.
    pub input: usize,
    /// Index of the tap in the filter, row-major.
    pub tap: usize,
}

impl Geometry {
    /// Rows of an output image.
    pub fn output_height(&self) -> usize {
        self.outputs(self.height + self.pads.top + self.pads.bottom)
    }

    /// Columns of an output image.
    pub fn output_width(&self) -> usize {
        self.outputs(self.width + self.pads.left + self.pads.right)
    }

    /// Input pixels of the whole batch.
    pub fn input_pixels(&self) -> usize {
        self.batch * self.height * self.width
    }

    /// Output pixels of the whole batch.
    pub fn output_pixels(&self) -> usize {
        self.batch * self.output_height() * self.output_width()
    }

    /// Taps of the filter.
    pub fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// How many positions the filter has along an axis of `padded` pixels: count them.
    fn outputs(&self, padded: usize) -> usize {
        let last_tap = (self.kernel - 1) * self.dilation;
        (0..padded).step_by(self.stride).filter(|first| first + last_tap < padded).count()
    }

    /// Calls `visit` for every tap that falls on a pixel; those on padding are left out.
    pub fn for_each_tap(&self, mut visit: impl FnMut(Tap)) {
        let (output_height, output_width) = (self.output_height(), self.output_width());
        for image in 0..self.batch {
            for out_row in 0..output_height {
                for out_column in 0..output_width {
                    let output = (image * output_height + out_row) * output_width + out_column;
                    for tap in 0..self.taps() {
                        let (tap_row, tap_column) = (tap / self.kernel, tap % self.kernel);
                        // Position in the padded image, then in the image.
                        let row = out_row * self.stride + tap_row * self.dilation;
                        let column = out_column * self.stride + tap_column * self.dilation;
                        let inside = row >= self.pads.top
                            && row < self.pads.top + self.height
                            && column >= self.pads.left
                            && column < self.pads.left + self.width;
                        if inside {
                            let (row, column) = (row - self.pads.top, column - self.pads.left);
                            let input = (image * self.height + row) * self.width + column;
                            visit(Tap { output, input, tap });
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(size: usize, stride: usize, dilation: usize, pads: Pads) -> Geometry {
        Geometry { batch: 1, height: size, width: size, kernel: 3, stride, dilation, pads }
    }

    #[test]
    fn output_sizes_by_hand() {
        assert_eq!(geometry(224, 2, 1, Pads::all(1)).output_height(), 112);
        assert_eq!(geometry(7, 2, 1, Pads::all(1)).output_height(), 4);
        assert_eq!(geometry(14, 1, 2, Pads::all(2)).output_height(), 14);
        assert_eq!(geometry(2, 1, 1, Pads::default()).output_height(), 0);
        let behind = Pads { bottom: 1, right: 1, ..Pads::default() };
        assert_eq!(geometry(224, 2, 1, behind).output_height(), 112);
    }

    #[test]
    fn padding_hides_the_taps_outside() {
        // One pixel, padded all round: only the middle tap sees it.
        let mut seen = Vec::new();
        geometry(1, 1, 1, Pads::all(1)).for_each_tap(|t| seen.push((t.output, t.input, t.tap)));
        assert_eq!(seen, [(0, 0, 4)]);
        // Padded behind only, the first tap does.
        seen.clear();
        let behind = Pads { bottom: 2, right: 2, ..Pads::default() };
        geometry(1, 1, 1, behind).for_each_tap(|t| seen.push((t.output, t.input, t.tap)));
        assert_eq!(seen, [(0, 0, 0)]);
    }
}
