//! Small networks made by hand: what is recognised, what is refused and how it is said.

use mobilenet::Tensor;
use mobilenet::conventions::Activation;

use super::network::{Convolution, FilterLayout, Network, Node, Op};
use super::walk::chain;
use crate::Chain;
use crate::chain::StepPadding;
use crate::error::Result;

const VALID: StepPadding = StepPadding::Explicit { top: 0, bottom: 0, left: 0, right: 0 };

/// A network under construction.
#[derive(Default)]
struct Made(Network);

impl Made {
    fn node(&mut self, name: &str, op: Op, inputs: &[usize]) -> usize {
        self.0.nodes.push(Node { name: name.into(), op, inputs: inputs.to_vec() });
        self.0.nodes.len() - 1
    }

    fn constant(&mut self, shape: &[usize], value: f32) -> usize {
        let data = vec![value; shape.iter().product()];
        self.node("constant", Op::Constant(Tensor::new(shape, data).unwrap()), &[])
    }

    fn input(&mut self) -> usize {
        self.node("input", Op::Input { shape: vec![0, 32, 32, 3], integer: false }, &[])
    }

    fn convolution(&mut self, name: &str, data: usize, filter: [usize; 4], padding: StepPadding) -> usize {
        let filter = self.constant(&filter, 0.5);
        self.convolution_with(name, data, filter, padding, false)
    }

    fn convolution_with(
        &mut self,
        name: &str,
        data: usize,
        filter: usize,
        padding: StepPadding,
        channels_first: bool,
    ) -> usize {
        let layout = FilterLayout::Hwio;
        let convolution = Convolution { layout, stride: [1, 1], dilation: [1, 1], padding, channels_first };
        self.node(name, Op::Convolution(convolution), &[data, filter])
    }

    fn chain(&self) -> Result<Chain> {
        chain(&self.0, "TensorFlow")
    }

    fn error(&self) -> String {
        self.chain().unwrap_err().to_string()
    }
}

#[test]
fn branches_that_join_are_another_network() {
    let mut made = Made::default();
    let input = made.input();
    let stem = made.convolution("stem", input, [3, 3, 3, 4], StepPadding::Same);
    let one = made.convolution("one", stem, [1, 1, 4, 4], StepPadding::Same);
    let sum = made.node("sum", Op::Add, &[one, stem]);
    made.convolution("two", sum, [1, 1, 4, 4], StepPadding::Same);
    assert!(made.error().contains("node `sum` of the graph joins two branches"), "{}", made.error());

    let mut made = Made::default();
    let input = made.input();
    let stem = made.convolution("stem", input, [3, 3, 3, 4], StepPadding::Same);
    let pool = made.node("pool", Op::Other("MaxPool".into()), &[stem]);
    let next = made.convolution("next", pool, [1, 1, 4, 4], StepPadding::Same);
    made.convolution("last", next, [1, 1, 4, 4], StepPadding::Same);
    assert!(made.error().contains("node `pool` of the graph is a MaxPool"), "{}", made.error());
}

#[test]
fn variables_in_place_of_constants_are_refused() {
    let mut made = Made::default();
    let input = made.input();
    let variable = made.node("weights", Op::Other("VarHandleOp".into()), &[]);
    made.convolution_with("stem", input, variable, StepPadding::Same, false);
    assert!(made.error().contains("found `weights`; freeze the graph"), "{}", made.error());
    let nothing = Made::default();
    assert!(nothing.error().contains("no convolution"), "{}", nothing.error());
    let mut alone = Made::default();
    let constant = alone.constant(&[1, 8, 8, 3], 1.0);
    alone.convolution("stem", constant, [3, 3, 3, 4], StepPadding::Same);
    assert!(alone.error().contains("reads nothing"), "{}", alone.error());
}

#[test]
fn pads_are_added_and_two_bounds_are_relu6() {
    for channels_first in [false, true] {
        let mut made = Made::default();
        let input = made.input();
        let sizes = if channels_first { [0, 0, 0, 0, 0, 1, 2, 3] } else { [0, 0, 0, 1, 2, 3, 0, 0] };
        let sizes = Tensor::new(&[4, 2], sizes.map(|v: u8| f32::from(v)).to_vec()).unwrap();
        let sizes = made.node("sizes", Op::Constant(sizes), &[]);
        let pad = made.node("pad", Op::Pad, &[input, sizes]);
        let filter = made.constant(&[3, 3, 3, 4], 0.5);
        let stem = made.convolution_with("stem", pad, filter, VALID, channels_first);
        let (zero, six) = (made.constant(&[], 0.0), made.constant(&[], 6.0));
        let relu = made.node("relu", Op::Maximum, &[stem, zero]);
        made.node("relu6", Op::Minimum, &[relu, six]);
        let step = &made.chain().unwrap().steps[0];
        assert_eq!(step.padding, StepPadding::Explicit { top: 0, bottom: 1, left: 2, right: 3 });
        assert_eq!(step.activation, Some(Activation::Relu6));
        // Read as the other order, the pads would be of channels.
        let Op::Convolution(convolution) = &mut made.0.nodes[stem].op else { unreachable!() };
        convolution.channels_first = !channels_first;
        assert!(made.error().contains("adds images or channels"), "{}", made.error());
    }
}

#[test]
fn scales_and_shifts_are_folded_into_the_convolution() {
    let mut made = Made::default();
    let input = made.input();
    let stem = made.convolution("stem", input, [1, 1, 3, 2], StepPadding::Same);
    let (mean, scale, offset) =
        (made.constant(&[2], 0.25), made.constant(&[2], 4.0), made.constant(&[1, 1, 1, 2], 3.0));
    let a = made.node("centre", Op::Subtract, &[stem, mean]);
    let b = made.node("scale", Op::Multiply, &[scale, a]);
    made.node("shift", Op::Add, &[b, offset]);
    let step = &made.chain().unwrap().steps[0];
    assert_eq!(step.weight.data(), [2.0; 6]);
    assert_eq!(step.bias.as_deref(), Some(&[2.0; 2][..]));
}

#[test]
fn a_normalisation_in_front_becomes_the_preprocessing() {
    // (x/255 − mean)/std as it is written in many ways; pixels 0 … 255 or 0 … 1.
    type Case = (&'static [(Op, f32)], f32, f32);
    let cases: [Case; 4] = [
        (&[(Op::Subtract, 127.5), (Op::Divide, 127.5)], 0.5, 0.5),
        (&[(Op::Multiply, 1.0 / 127.5), (Op::Subtract, 1.0)], 0.5, 0.5),
        (&[(Op::Subtract, 0.5), (Op::Multiply, 2.0)], 0.5, 0.5),
        (&[(Op::Divide, 255.0)], 0.0, 1.0),
    ];
    for (nodes, mean, std) in cases {
        let mut made = Made::default();
        let mut last = made.input();
        for (op, value) in nodes {
            let constant = made.constant(&[], *value);
            let op = match op {
                Op::Subtract => Op::Subtract,
                Op::Divide => Op::Divide,
                _ => Op::Multiply,
            };
            last = made.node("normalise", op, &[last, constant]);
        }
        made.convolution("stem", last, [3, 3, 3, 4], StepPadding::Same);
        let found = made.chain().unwrap().hints.preprocessing.unwrap();
        for channel in 0..3 {
            assert!((found.mean[channel] - mean).abs() < 1e-6, "{nodes:?}: {:?}", found.mean);
            assert!((found.std[channel] - std).abs() < 1e-6, "{nodes:?}: {:?}", found.std);
        }
    }
}

#[test]
fn a_graph_cannot_make_memory_out_of_one_constant() {
    let mut made = Made::default();
    let mut last = made.input();
    let filter = made.constant(&[1, 1, 512, 512], 0.5);
    for _ in 0..100 {
        last = made.convolution_with("again", last, filter, StepPadding::Same, false);
    }
    assert!(made.error().contains("too many steps"), "{}", made.error());
    // A sum of sums of sums … would be computed 2⁶⁰ times.
    let mut made = Made::default();
    let input = made.input();
    let mut sum = made.constant(&[4], 1.0);
    for _ in 0..60 {
        sum = made.node("sum", Op::Add, &[sum, sum]);
    }
    let stem = made.convolution("stem", input, [3, 3, 3, 4], StepPadding::Same);
    made.node("shift", Op::Add, &[stem, sum]);
    assert!(made.error().contains("too many steps"), "{}", made.error());
}

#[test]
fn loops_end() {
    let mut made = Made::default();
    let input = made.input();
    let filter = made.constant(&[1, 1, 3, 3], 1.0);
    let stem = made.convolution_with("stem", input, filter, StepPadding::Same, false);
    let first = made.node("first", Op::Identity, &[usize::MAX]);
    let second = made.convolution_with("second", first, filter, StepPadding::Same, false);
    made.0.nodes[first].inputs = vec![second];
    assert_eq!(made.chain().unwrap().steps.len(), 1);
    assert_eq!(made.chain().unwrap().steps[0].name, made.0.nodes[stem].name);
}
