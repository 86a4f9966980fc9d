//! The layers of an HDF5 file and their tensors, of both ways in which Keras lays them out.
//!
//! Weights files of Keras 1 and 2 and whole models (below `model_weights`) have a group for each
//! layer, and datasets named like variables: `conv1/conv1/kernel:0`, or
//! `mobilenet_1.00_224/conv1/kernel` where a network is a layer of another. `.weights.h5` and
//! `.keras` number both: `layers/conv2d_3/vars/0`, with the layer's name in an attribute of `vars`
//! in newer versions, and `_layer_checkpoint_dependencies` for `layers` in the oldest.

use std::collections::{BTreeMap, HashSet};

use mobilenet::Tensor;

use super::naming;
use crate::error::{Error, Result};
use crate::hdf5::{self, Datatype, Object};

/// A layer with weights.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Its name; in files without names as `numbered`.
    pub(super) name: String,
    /// Its class and number as Keras counts them, `conv2d_3`: the group's name in files that
    /// number, elsewhere the name, which is the same where nobody chose one.
    pub(super) numbered: String,
    /// The group that holds it and its siblings.
    pub(super) container: String,
    /// By the variable's name.
    pub(super) parts: BTreeMap<String, Tensor>,
}

/// Top-level groups that hold no weights of the network.
const NOT_THE_NETWORK: [&str; 4] = ["optimizer_weights", "optimizer", "metrics", "seed_generators"];

/// Every layer that has floating-point tensors, in the order of the file.
pub(super) fn layers(root: &Object<'_, '_>) -> Result<Vec<Layer>> {
    let mut walk = Walk::default();
    match root.member("model_weights")? {
        Some(group) => walk.group(&group, &mut Vec::new())?,
        None => walk.group(root, &mut Vec::new())?,
    }
    Ok(walk.layers)
}

#[derive(Default)]
struct Walk {
    layers: Vec<Layer>,
    /// Index in `layers` by container and name.
    index: BTreeMap<(String, String), usize>,
    /// Groups that have been visited: hard links may lead back.
    seen: HashSet<u64>,
}

impl Walk {
    fn group(&mut self, group: &Object<'_, '_>, path: &mut Vec<String>) -> Result<()> {
        if path.len() > hdf5::MAX_DEPTH {
            return Err(Error::damaged(
                "HDF5",
                format!("more than {} groups within each other", hdf5::MAX_DEPTH),
            ));
        }
        if !self.seen.insert(group.address) {
            return Err(Error::damaged("HDF5", format!("the group /{} is linked twice", path.join("/"))));
        }
        let named = match path.last() {
            Some(last) if last == "vars" => {
                group.attribute("name")?.map(|attribute| attribute.string()).transpose()?
            }
            _ => None,
        };
        for (name, member) in group.members()? {
            if path.is_empty() && NOT_THE_NETWORK.contains(&name.as_str()) {
                continue;
            }
            if member.is_dataset() {
                self.dataset(&member, path, &name, named.as_deref())?;
                continue;
            }
            // Early Keras 3 on Windows wrote paths with backslashes, as one name.
            let depth = path.len();
            path.extend(name.split('\\').map(str::to_owned));
            self.group(&member, path)?;
            path.truncate(depth);
        }
        Ok(())
    }

    /// Adds the dataset `name` in the group at `path`; `named` is that group's own word for the
    /// layer.
    fn dataset(
        &mut self,
        object: &Object<'_, '_>,
        path: &[String],
        name: &str,
        named: Option<&str>,
    ) -> Result<()> {
        let dataset = object.dataset().map_err(|error| within(error, path, name))?;
        // Counters and the states of random number generators are integers.
        if !matches!(dataset.datatype, Datatype::Float { .. }) {
            return Ok(());
        }
        let values = dataset.floats().map_err(|error| within(error, path, name))?;
        let tensor = Tensor::new(&dataset.shape, values)?;

        let (layer, numbered, container, part) = match path {
            // `…/layers/conv2d_3/vars/0`
            [container @ .., layer, vars] if vars == "vars" => {
                let part = naming::numbered_part(layer, name);
                (named.unwrap_or(layer).to_owned(), layer.clone(), container.join("/"), part)
            }
            _ => {
                let known = path.iter().rev().find(|name| naming::is_canonical(name));
                let layer = known.or(path.last()).cloned().unwrap_or_default();
                let part = name.split(':').next().unwrap_or(name);
                (layer.clone(), layer, String::new(), part.to_owned())
            }
        };
        let key = (container.clone(), layer.clone());
        let at = *self.index.entry(key).or_insert(self.layers.len());
        if at == self.layers.len() {
            self.layers.push(Layer { name: layer, numbered, container, parts: BTreeMap::new() });
        }
        let layer = &mut self.layers[at];
        match layer.parts.insert(part.clone(), tensor) {
            None => Ok(()),
            Some(_) => Err(Error::Tensors(format!(
                "{}/{part}: twice in the file (the second at /{}/{name}); does it hold two networks?",
                layer.name,
                path.join("/")
            ))),
        }
    }
}

/// The error with the dataset that it is about.
fn within(error: Error, path: &[String], name: &str) -> Error {
    let at = |problem| format!("/{}/{name}: {problem}", path.join("/"));
    match error {
        Error::Damaged { format, problem } => Error::Damaged { format, problem: at(problem) },
        Error::Refused { format, problem } => Error::Refused { format, problem: at(problem) },
        other => other,
    }
}
