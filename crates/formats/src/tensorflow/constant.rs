//! Values that do not depend on the input: constants, and arithmetic over them.

use std::cell::Cell;

use mobilenet::Tensor;

use super::network::{Network, Node, Op};
use crate::error::{Error, Result};

/// Deeper arithmetic than this is not what a network's constants are made of.
const DEEPEST: usize = 64;

/// Evaluates constants of a network.
pub(crate) struct Constants<'a> {
    network: &'a Network,
    format: &'static str,
    constant: Vec<bool>,
    /// How many more values may be computed; a hostile graph could ask for any number.
    budget: Cell<usize>,
}

impl<'a> Constants<'a> {
    /// `order` names nodes after those that they read.
    pub(crate) fn new(network: &'a Network, order: &[usize], format: &'static str) -> Self {
        let mut constant = vec![false; network.nodes.len()];
        let mut values = 0;
        for &index in order {
            let node = &network.nodes[index];
            constant[index] = match &node.op {
                Op::Constant(tensor) => {
                    values += tensor.data().len();
                    true
                }
                // The shape that a reshape asks for may be computed from the data's.
                Op::Reshape => node.inputs.first().is_some_and(|&i| is_set(&constant, i)),
                op if op.folds() => {
                    !node.inputs.is_empty() && node.inputs.iter().all(|&i| is_set(&constant, i))
                }
                _ => false,
            };
        }
        Self { network, format, constant, budget: Cell::new(16 * values + (1 << 20)) }
    }

    /// Whether a node's value does not depend on the input.
    pub(crate) fn is_constant(&self, index: usize) -> bool {
        is_set(&self.constant, index)
    }

    /// The node behind casts and identities.
    pub(crate) fn behind(&self, mut index: usize) -> Option<&'a Node> {
        for _ in 0..DEEPEST {
            let node = self.network.nodes.get(index)?;
            match (&node.op, node.inputs.first()) {
                (Op::Identity | Op::Cast { .. } | Op::Reshape, Some(&input)) => index = input,
                _ => return Some(node),
            }
        }
        None
    }

    /// A constant's value.
    ///
    /// # Errors
    /// When the node is missing or depends on the input, or shapes do not fit.
    pub(crate) fn value(&self, index: usize, of: &str) -> Result<Tensor> {
        if !self.is_constant(index) {
            let found = self.network.nodes.get(index).map_or("nothing", |node| node.name.as_str());
            return Err(Error::refused(
                self.format,
                format!(
                    "node `{of}`: expected a constant among its inputs, found `{found}`; freeze the graph \
                     (variables become constants) and export it for inference"
                ),
            ));
        }
        self.evaluate(index, 0)
    }

    /// A vector of `length` values, one value being spread over it.
    pub(crate) fn vector(&self, index: usize, length: usize, of: &str) -> Result<Vec<f32>> {
        let value = self.value(index, of)?;
        let found = value.shape().to_vec();
        let mut data = value.into_data();
        if data.len() == 1 && length > 1 {
            data = vec![data[0]; length];
        }
        if data.len() != length {
            return Err(Error::Tensors(format!(
                "{of}: expected {length} values, one a channel, found shape {found:?}"
            )));
        }
        Ok(data)
    }

    fn evaluate(&self, index: usize, depth: usize) -> Result<Tensor> {
        let damaged = |problem: String| Err(Error::damaged(self.format, problem));
        let Some(node) = self.network.nodes.get(index).filter(|_| depth < DEEPEST) else {
            return damaged("constants are computed in too many steps".into());
        };
        let input = |number: usize| match node.inputs.get(number) {
            Some(&input) => self.evaluate(input, depth + 1),
            None => damaged(format!("node `{}`: input {number} is missing", node.name)),
        };
        let operator: fn(f32, f32) -> f32 = match &node.op {
            Op::Constant(tensor) => {
                self.spend(tensor.data().len())?;
                return Ok(tensor.clone());
            }
            Op::Identity | Op::Cast { .. } | Op::Reshape => return input(0),
            Op::ReciprocalRoot => {
                let mut value = input(0)?;
                value.data_mut().iter_mut().for_each(|v| *v = (1.0 / f64::from(*v).sqrt()) as f32);
                return Ok(value);
            }
            Op::Add => |a, b| a + b,
            Op::Subtract => |a, b| a - b,
            Op::Multiply => |a, b| a * b,
            Op::Divide => |a, b| a / b,
            _ => return damaged(format!("node `{}` is not a constant", node.name)),
        };
        let (a, b) = (input(0)?, input(1)?);
        self.spend(a.data().len().max(b.data().len()))?;
        match broadcast(&a, &b, operator) {
            Some(result) => Ok(result),
            None => damaged(format!(
                "node `{}`: shapes {:?} and {:?} do not fit each other",
                node.name,
                a.shape(),
                b.shape()
            )),
        }
    }

    fn spend(&self, values: usize) -> Result<()> {
        match self.budget.get().checked_sub(values + 1) {
            Some(left) => {
                self.budget.set(left);
                Ok(())
            }
            None => Err(Error::damaged(self.format, "constants are computed in too many steps")),
        }
    }
}

fn is_set(flags: &[bool], index: usize) -> bool {
    flags.get(index).copied().unwrap_or(false)
}

/// `a ∘ b` where the shape of one is the end of the other's (ones in front aside).
fn broadcast(a: &Tensor, b: &Tensor, operator: fn(f32, f32) -> f32) -> Option<Tensor> {
    let (long, short) = if a.data().len() >= b.data().len() { (a, b) } else { (b, a) };
    let first = short.shape().iter().position(|&side| side != 1).unwrap_or(short.shape().len());
    if !long.shape().ends_with(&short.shape()[first..]) {
        return None;
    }
    let (x, y) = (a.data(), b.data());
    if x.is_empty() || y.is_empty() {
        return None;
    }
    let data = (0..long.data().len()).map(|i| operator(x[i % x.len()], y[i % y.len()])).collect();
    Tensor::new(long.shape(), data).ok()
}
