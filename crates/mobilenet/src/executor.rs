//! The one thing that whatever trains, evaluates or serves needs to know of a device.

use crate::architecture::{Architecture, Shape};
use crate::error::Result;
use crate::preprocess::normalise;
use crate::tensor::Tensor;
use crate::weights::{Role, Weights};

/// A trainable tensor and its gradient, as an optimizer sees them.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// Its name, as in [`Weights`].
    pub name: &'a str,
    /// What it is in its layer (weight decay may depend on it).
    pub role: Role,
    /// Its values, in the layout of [`Weights`].
    pub value: &'a mut [f32],
    /// The gradient accumulated since [`Executor::zero_grad`], of the same length.
    pub grad: &'a mut [f32],
}

/// Runs an architecture with weights on some device.
///
/// Images are `[N, H, W, C]`, already normalised; any `N` ≥ 1, and `N` may change between calls.
/// Results do not depend on the number of threads.
pub trait Executor: Send {
    /// What is run.
    fn architecture(&self) -> &Architecture;

    /// Logits `[N, outputs]` in inference mode: running BN statistics, no dropout. What
    /// [`Executor::features`] gave may stand in for the images.
    fn infer(&mut self, images: &Tensor) -> Result<Tensor>;

    /// [`Executor::infer`] of 8-bit pixels `[N, H, W, C]`, normalised inside as the architecture's
    /// conventions say ([`crate::preprocess::Normalisation`]): the same logits, with less memory to read.
    ///
    /// # Errors
    /// When there are not whole images, or the conventions have not one mean and deviation a channel.
    fn infer_pixels(&mut self, pixels: &[u8]) -> Result<Tensor> {
        let architecture = self.architecture();
        let count = architecture.count_pixels(pixels)?;
        let Shape { height, width, channels } = architecture.input_shape();
        let mut images = Tensor::zeros(&[count, height, width, channels]);
        normalise(pixels, &architecture.conventions.preprocessing.tables(), images.data_mut());
        self.infer(&images)
    }

    /// What the classifier reads, in inference mode: `[N, features]`, the mean of the last feature
    /// map over its pixels.
    fn features(&mut self, images: &Tensor) -> Result<Tensor>;

    /// Keeps the first convolution and the first `blocks` blocks as they are from here on, up to the
    /// whole body; `None` frees everything. What is frozen runs in inference mode in
    /// [`Executor::forward`] too, so that its running statistics stay; it gets no gradient and is not
    /// among [`Executor::parameters`].
    ///
    /// # Errors
    /// When the body has fewer blocks ([`Architecture::blocks`]).
    fn freeze(&mut self, blocks: Option<usize>) -> Result<()>;

    /// Logits `[N, outputs]` in training mode: batch statistics (which update the running ones)
    /// and dropout. Keeps what [`Executor::backward`] needs. Where the whole body is frozen, what
    /// [`Executor::features`] gave may stand in for the images.
    fn forward(&mut self, images: &Tensor) -> Result<Tensor>;

    /// Adds the gradients of the loss to every parameter's, given the loss's gradient with
    /// respect to the logits of the last [`Executor::forward`] (which it uses up).
    fn backward(&mut self, d_logits: &Tensor) -> Result<()>;

    /// Sets every gradient to zero.
    fn zero_grad(&mut self);

    /// Every trainable tensor that is not frozen, with its gradient, in the order of the layers.
    /// What was folded or packed from them is made anew at the next use.
    fn parameters(&mut self) -> Vec<Parameter<'_>>;

    /// Seeds the dropout of the next [`Executor::forward`] (call it with the step's own seed, so
    /// that a resumed run draws the same).
    fn seed_dropout(&mut self, seed: u64);

    /// A copy of all tensors, running statistics included.
    fn weights(&self) -> Weights;

    /// Takes over `weights`, after [`Weights::check`].
    fn set_weights(&mut self, weights: &Weights) -> Result<()>;
}
