//! Nodes whose inputs are all constants, computed.

use std::rc::Rc;

use super::array::{Array, MOST_DIMENSIONS, count, strides};
use super::attributes::Attributes;

/// Why a node was not computed.
pub enum Unfolded {
    /// Its operator is not known here, or its inputs do not fit it.
    Unknown,
    /// It would make more values than any file of this size needs.
    TooLarge,
}

/// Computes nodes, with a bound on all the values that it makes.
pub struct Folder {
    /// How many more values may be made.
    pub budget: usize,
}

impl Folder {
    /// The output of a node over constants; `inputs` has none where an input is left out.
    pub fn fold(
        &mut self,
        operator: &str,
        attributes: &Attributes<'_>,
        inputs: &[Option<&Array>],
    ) -> Result<Array, Unfolded> {
        let first = inputs.first().copied().flatten();
        let second = inputs.get(1).copied().flatten();
        let optional = match (operator, first, second) {
            ("Identity" | "CastLike" | "Dropout", Some(array), _) => Some(array.clone()),
            ("Cast", Some(array), _) => self.cast(array, attributes.integer("to"))?,
            ("Shape", Some(array), _) => {
                Some(shape_of(array.shape.iter().map(|&extent| extent as f64), attributes))
            }
            ("Reshape", Some(array), Some(shape)) => reshape(array, shape),
            ("Flatten", Some(array), _) => flatten(array, attributes.integer("axis").unwrap_or(1)),
            ("Squeeze", Some(array), axes) => squeeze(array, self.axes(attributes, axes)),
            ("Unsqueeze", Some(array), axes) => unsqueeze(array, self.axes(attributes, axes)),
            ("Transpose", Some(array), _) => self.transpose(array, attributes.integers("perm"))?,
            ("Concat", ..) => self.concat(inputs, attributes.integer("axis"))?,
            ("Gather", Some(array), Some(indices)) => {
                self.gather(array, indices, attributes.integer("axis"))?
            }
            ("Slice", Some(array), _) => self.slice(array, inputs, attributes)?,
            ("Expand", Some(array), Some(shape)) => self.expand(array, shape)?,
            ("ConstantOfShape", Some(shape), _) => self.constant_of_shape(shape, attributes)?,
            (_, Some(a), Some(b)) if inputs.len() == 2 => match binary(operator, a.integer && b.integer) {
                Some(function) => self.broadcast(a, b, function)?,
                None => None,
            },
            (_, Some(a), None) => match unary(operator) {
                Some(function) => {
                    self.spend(a.data.len())?;
                    Some(Array { data: a.data.iter().map(|&v| function(v)).collect(), ..a.clone() })
                }
                None => None,
            },
            _ => None,
        };
        optional.ok_or(Unfolded::Unknown)
    }

    fn spend(&mut self, values: usize) -> Result<(), Unfolded> {
        self.budget = self.budget.checked_sub(values).ok_or(Unfolded::TooLarge)?;
        Ok(())
    }

    /// The number of values of `shape`, which are paid for.
    fn afford(&mut self, shape: &[usize]) -> Result<usize, Unfolded> {
        let values = count(shape).ok_or(Unfolded::TooLarge)?;
        self.spend(values)?;
        Ok(values)
    }

    fn axes(&self, attributes: &Attributes<'_>, input: Option<&Array>) -> Option<Vec<i64>> {
        match input {
            Some(axes) => axes.to_integers(),
            None => attributes.integers("axes").map(<[i64]>::to_vec),
        }
    }

    fn cast(&mut self, array: &Array, to: Option<i64>) -> Result<Option<Array>, Unfolded> {
        // 1 f32, 10 f16, 11 f64, 16 bf16; all others are integers or not read.
        let integer = !matches!(to, Some(1 | 10 | 11 | 16));
        if array.integer == integer || !integer {
            return Ok(Some(Array { integer, ..array.clone() }));
        }
        self.spend(array.data.len())?;
        let data = array.data.iter().map(|value| value.trunc()).collect();
        Ok(Some(Array { shape: array.shape.clone(), data, integer }))
    }

    /// Takes the values at the positions that an odometer over `shape` with these steps passes.
    fn collect(
        &mut self,
        array: &Array,
        shape: Vec<usize>,
        start: i64,
        steps: &[i64],
    ) -> Result<Option<Array>, Unfolded> {
        let values = self.afford(&shape)?;
        let mut data = Vec::with_capacity(values);
        let mut index = vec![0usize; shape.len()];
        let mut position = start;
        for _ in 0..values {
            let Some(&value) = usize::try_from(position).ok().and_then(|at| array.data.get(at)) else {
                return Ok(None);
            };
            data.push(value);
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                position += steps[axis];
                if index[axis] < shape[axis] {
                    break;
                }
                position -= steps[axis] * shape[axis] as i64;
                index[axis] = 0;
            }
        }
        Ok(Some(Array { shape, data: data.into(), integer: array.integer }))
    }

    fn transpose(&mut self, array: &Array, perm: Option<&[i64]>) -> Result<Option<Array>, Unfolded> {
        let rank = array.shape.len();
        let Some(perm) = permutation(perm, rank) else { return Ok(None) };
        let from = array.strides();
        let shape = perm.iter().map(|&axis| array.shape[axis]).collect();
        let steps: Vec<i64> = perm.iter().map(|&axis| from[axis] as i64).collect();
        self.collect(array, shape, 0, &steps)
    }

    fn expand(&mut self, array: &Array, shape: &Array) -> Result<Option<Array>, Unfolded> {
        let Some(target) = extents(shape) else { return Ok(None) };
        let Some(shape) = broadcast_shape(&array.shape, &target) else { return Ok(None) };
        let steps = broadcast_steps(array, shape.len());
        self.collect(array, shape, 0, &steps)
    }

    fn constant_of_shape(
        &mut self,
        shape: &Array,
        attributes: &Attributes<'_>,
    ) -> Result<Option<Array>, Unfolded> {
        let value = match attributes.tensor("value") {
            Some(Ok(value)) => value,
            Some(Err(_)) => return Ok(None),
            None => Array::scalar(0.0, false),
        };
        let (Some(shape), Some(fill)) = (extents(shape), value.single()) else { return Ok(None) };
        let values = self.afford(&shape)?;
        Ok(Some(Array::new(shape, vec![fill; values], value.integer)))
    }

    fn broadcast(
        &mut self,
        a: &Array,
        b: &Array,
        function: fn(f64, f64) -> f64,
    ) -> Result<Option<Array>, Unfolded> {
        let Some(shape) = broadcast_shape(&a.shape, &b.shape) else { return Ok(None) };
        let (steps_a, steps_b) = (broadcast_steps(a, shape.len()), broadcast_steps(b, shape.len()));
        let Some(spread_a) = self.collect(a, shape.clone(), 0, &steps_a)? else { return Ok(None) };
        let Some(spread_b) = self.collect(b, shape, 0, &steps_b)? else { return Ok(None) };
        let data = spread_a.data.iter().zip(spread_b.data.iter()).map(|(&a, &b)| function(a, b)).collect();
        Ok(Some(Array { shape: spread_a.shape, data, integer: a.integer && b.integer }))
    }

    fn concat(&mut self, inputs: &[Option<&Array>], axis: Option<i64>) -> Result<Option<Array>, Unfolded> {
        let parts: Option<Vec<&Array>> = inputs.iter().copied().collect();
        let Some(parts) = parts.filter(|parts| !parts.is_empty()) else { return Ok(None) };
        let Some(axis) = axis.and_then(|axis| wrap(axis, parts[0].shape.len())) else { return Ok(None) };
        let mut shape = parts[0].shape.clone();
        shape[axis] = 0;
        for part in &parts {
            let alike = part.shape.len() == shape.len()
                && part
                    .shape
                    .iter()
                    .zip(&parts[0].shape)
                    .enumerate()
                    .all(|(at, (a, b))| at == axis || a == b);
            if !alike {
                return Ok(None);
            }
            shape[axis] = shape[axis].saturating_add(part.shape[axis]);
        }
        let values = self.afford(&shape)?;
        let outer: usize = shape[..axis].iter().product();
        let mut data = Vec::with_capacity(values);
        for row in 0..outer {
            for part in &parts {
                let length = part.data.len() / outer.max(1);
                data.extend_from_slice(&part.data[row * length..(row + 1) * length]);
            }
        }
        Ok(Some(Array { shape, data: data.into(), integer: parts.iter().all(|part| part.integer) }))
    }

    fn gather(
        &mut self,
        array: &Array,
        indices: &Array,
        axis: Option<i64>,
    ) -> Result<Option<Array>, Unfolded> {
        let Some(axis) = wrap(axis.unwrap_or(0), array.shape.len()) else { return Ok(None) };
        let Some(picks) = indices.to_integers() else { return Ok(None) };
        let extent = array.shape[axis];
        let picks: Option<Vec<usize>> = picks.iter().map(|&pick| wrap(pick, extent)).collect();
        let Some(picks) = picks else { return Ok(None) };
        let outer: usize = array.shape[..axis].iter().product();
        let inner: usize = array.shape[axis + 1..].iter().product();
        let shape: Vec<usize> = array.shape[..axis]
            .iter()
            .chain(&indices.shape)
            .chain(&array.shape[axis + 1..])
            .copied()
            .collect();
        if shape.len() > MOST_DIMENSIONS {
            return Ok(None);
        }
        let values = self.afford(&shape)?;
        let mut data = Vec::with_capacity(values);
        for row in 0..outer {
            for pick in &picks {
                let start = (row * extent + pick) * inner;
                data.extend_from_slice(&array.data[start..start + inner]);
            }
        }
        Ok(Some(Array { shape, data: data.into(), integer: array.integer }))
    }

    /// `Slice`, with its ranges as attributes (to opset 9) or inputs.
    fn slice(
        &mut self,
        array: &Array,
        inputs: &[Option<&Array>],
        attributes: &Attributes<'_>,
    ) -> Result<Option<Array>, Unfolded> {
        let list = |at: usize, name: &str| match inputs.get(at).copied().flatten() {
            Some(array) => array.to_integers(),
            None => attributes.integers(name).map(<[i64]>::to_vec),
        };
        let (Some(starts), Some(ends)) = (list(1, "starts"), list(2, "ends")) else { return Ok(None) };
        let axes = list(3, "axes").unwrap_or_else(|| (0..starts.len() as i64).collect());
        let by = list(4, "steps").unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), by.len()] != [starts.len(); 3] {
            return Ok(None);
        }
        let from = array.strides();
        let mut steps: Vec<i64> = from.iter().map(|&step| step as i64).collect();
        let (mut shape, mut start) = (array.shape.clone(), 0i64);
        for (((first, end), axis), by) in starts.into_iter().zip(ends).zip(axes).zip(by) {
            let Some(axis) = wrap(axis, array.shape.len()).filter(|_| by != 0 && by.unsigned_abs() < 1 << 31)
            else {
                return Ok(None);
            };
            let extent = array.shape[axis] as i64;
            let wrapped = |at: i64| if at < 0 { at.saturating_add(extent) } else { at };
            let (first, end) = match by > 0 {
                true => (wrapped(first).clamp(0, extent), wrapped(end).clamp(0, extent)),
                false => (wrapped(first).clamp(-1, extent - 1), wrapped(end).clamp(-1, extent - 1)),
            };
            let length = if by > 0 { end - first } else { first - end };
            shape[axis] = usize::try_from(length).unwrap_or(0).div_ceil(by.unsigned_abs() as usize);
            start = start.saturating_add(first.max(0).saturating_mul(from[axis] as i64));
            steps[axis] = (from[axis] as i64).saturating_mul(by);
        }
        self.collect(array, shape, start, &steps)
    }
}

/// The output of `Shape` over these extents, of which NaN are not known.
pub fn shape_of(extents: impl Iterator<Item = f64>, attributes: &Attributes<'_>) -> Array {
    let extents: Vec<f64> = extents.collect();
    let rank = extents.len() as i64;
    let bound = |name: &str, default: i64| {
        let at = attributes.integer(name).unwrap_or(default);
        (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize
    };
    let (start, end) = (bound("start", 0), bound("end", rank));
    let data = extents.get(start..end).unwrap_or_default().to_vec();
    Array::new(vec![data.len()], data, true)
}

/// Position of a possibly negative axis or index.
pub fn wrap(at: i64, extent: usize) -> Option<usize> {
    let at = if at < 0 { at.checked_add(extent as i64)? } else { at };
    usize::try_from(at).ok().filter(|&at| at < extent)
}

/// A `perm` attribute checked; reversed axes when it is left out.
pub fn permutation(perm: Option<&[i64]>, rank: usize) -> Option<Vec<usize>> {
    let Some(perm) = perm else { return Some((0..rank).rev().collect()) };
    let perm: Option<Vec<usize>> = perm.iter().map(|&axis| wrap(axis, rank)).collect();
    perm.filter(|perm| perm.len() == rank && (0..rank).all(|axis| perm.contains(&axis)))
}

/// The values of a shape input; none when one is not known or negative.
fn extents(shape: &Array) -> Option<Vec<usize>> {
    let extents: Option<Vec<usize>> =
        shape.to_integers()?.into_iter().map(|extent| usize::try_from(extent).ok()).collect();
    extents.filter(|extents| extents.len() <= MOST_DIMENSIONS)
}

fn reshape(array: &Array, shape: &Array) -> Option<Array> {
    let wanted = shape.to_integers()?;
    if wanted.len() > MOST_DIMENSIONS {
        return None;
    }
    let mut shape = Vec::with_capacity(wanted.len());
    for (axis, &extent) in wanted.iter().enumerate() {
        shape.push(match extent {
            0 => *array.shape.get(axis)?,
            -1 => 1,
            extent => usize::try_from(extent).ok()?,
        });
    }
    if let Some(open) = wanted.iter().position(|&extent| extent == -1) {
        shape[open] = array.data.len().checked_div(count(&shape)?)?;
    }
    (count(&shape)? == array.data.len()).then(|| Array { shape, ..array.clone() })
}

fn flatten(array: &Array, axis: i64) -> Option<Array> {
    let rank = array.shape.len();
    let axis = if axis == rank as i64 { rank } else { wrap(axis, rank)? };
    let rows: usize = array.shape[..axis].iter().product();
    let shape = vec![rows, array.shape[axis..].iter().product()];
    Some(Array { shape, ..array.clone() })
}

fn squeeze(array: &Array, axes: Option<Vec<i64>>) -> Option<Array> {
    let rank = array.shape.len();
    let dropped: Vec<usize> = match axes {
        Some(axes) => axes.iter().map(|&axis| wrap(axis, rank)).collect::<Option<_>>()?,
        None => (0..rank).filter(|&axis| array.shape[axis] == 1).collect(),
    };
    if dropped.iter().any(|&axis| array.shape[axis] != 1) {
        return None;
    }
    let shape = (0..rank).filter(|axis| !dropped.contains(axis)).map(|axis| array.shape[axis]).collect();
    Some(Array { shape, ..array.clone() })
}

fn unsqueeze(array: &Array, axes: Option<Vec<i64>>) -> Option<Array> {
    let axes = axes?;
    let rank = array.shape.len().checked_add(axes.len()).filter(|&rank| rank <= MOST_DIMENSIONS)?;
    let added: Vec<usize> = axes.iter().map(|&axis| wrap(axis, rank)).collect::<Option<_>>()?;
    let mut old = array.shape.iter();
    let shape: Option<Vec<usize>> =
        (0..rank).map(|axis| if added.contains(&axis) { Some(1) } else { old.next().copied() }).collect();
    let shape = shape.filter(|shape| count(shape) == Some(array.data.len()))?;
    Some(Array { shape, data: Rc::clone(&array.data), integer: array.integer })
}

fn broadcast_shape(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at =
        |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (a, b) if a == b => Some(a),
            (1, other) | (other, 1) => Some(other),
            _ => None,
        })
        .collect()
}

/// Steps through `array` along the axes of a shape of `rank` that it is broadcast to.
fn broadcast_steps(array: &Array, rank: usize) -> Vec<i64> {
    let own = strides(&array.shape);
    let mut steps = vec![0; rank];
    for (axis, (&extent, &stride)) in array.shape.iter().zip(&own).enumerate() {
        if extent != 1 {
            steps[rank - array.shape.len() + axis] = stride as i64;
        }
    }
    steps
}

/// Elementwise operators of two inputs. What is not known (NaN) stays so.
fn binary(operator: &str, integer: bool) -> Option<fn(f64, f64) -> f64> {
    Some(match operator {
        "Add" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => |a, b| a * b,
        "Div" if integer => |a, b| (a / b).trunc(),
        "Div" => |a, b| a / b,
        // With the sign of the divisor, as for `fmod = 0`.
        "Mod" => |a, b| a - b * (a / b).floor(),
        "Pow" => f64::powf,
        "Max" => |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) },
        "Min" => |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) },
        _ => return None,
    })
}

fn unary(operator: &str) -> Option<fn(f64) -> f64> {
    Some(match operator {
        "Sqrt" => f64::sqrt,
        "Reciprocal" => |a| 1.0 / a,
        "Neg" => |a| -a,
        "Abs" => f64::abs,
        "Floor" => f64::floor,
        "Ceil" => f64::ceil,
        "Max" | "Min" => |a| a,
        _ => return None,
    })
}
