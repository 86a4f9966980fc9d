//! The sample of Fashion-MNIST that is compiled in (MIT licence; see `assets/fashion-mnist`).

use super::Result;
use super::idx::{FASHION_MNIST, Memory};

macro_rules! asset {
    ($name:literal) => {
        include_bytes!(concat!("../../assets/fashion-mnist/", $name))
    };
}

/// 12,000 training images, 1,200 of each class.
pub(super) fn train() -> Result<Memory> {
    Memory::embedded(
        "fashion-mnist-sample/train",
        asset!("train-images-idx3-ubyte.gz"),
        asset!("train-labels-idx1-ubyte.gz"),
        &FASHION_MNIST,
    )
}

/// 2,000 test images, 200 of each class.
pub(super) fn test() -> Result<Memory> {
    Memory::embedded(
        "fashion-mnist-sample/test",
        asset!("t10k-images-idx3-ubyte.gz"),
        asset!("t10k-labels-idx1-ubyte.gz"),
        &FASHION_MNIST,
    )
}
