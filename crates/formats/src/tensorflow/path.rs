//! Finds the one path of layers through a graph: which nodes are the network, what lies in front
//! of it, and where it ends. Everything else (summaries, dead nodes, a second head) is left out.

use super::constant::Constants;
use super::network::{Network, Op};
use crate::error::{Error, Result};

/// The nodes of a network from its input to its output.
pub(crate) struct Path {
    /// Nodes before the first layer, the input first.
    pub(crate) front: Vec<usize>,
    /// The first layer and what follows, to the end.
    pub(crate) layers: Vec<usize>,
    /// Layers elsewhere in the graph that end as deep: an old head beside a new one.
    pub(crate) other_heads: Vec<usize>,
}

/// Every node after those that it reads (Kahn's algorithm); nodes on a cycle are left out.
pub(crate) fn order(network: &Network) -> Vec<usize> {
    let count = network.nodes.len();
    let mut waiting = vec![0_usize; count];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (index, node) in network.nodes.iter().enumerate() {
        for &input in &node.inputs {
            if let Some(list) = readers.get_mut(input) {
                list.push(index);
                waiting[index] += 1;
            }
        }
    }
    let mut order: Vec<usize> = (0..count).filter(|&index| waiting[index] == 0).collect();
    let mut next = 0;
    while let Some(&done) = order.get(next) {
        next += 1;
        for &reader in &readers[done] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                order.push(reader);
            }
        }
    }
    order
}

/// Finds the path: the layer with the most layers before it ends it (of several the last in the
/// file, which is where scripts append a new head), then what only works on its output.
pub(crate) fn find(
    network: &Network,
    order: &[usize],
    constants: &Constants<'_>,
    format: &'static str,
) -> Result<Path> {
    let count = network.nodes.len();
    let mut parent: Vec<Option<usize>> = vec![None; count];
    // Layers on the path that ends in a node, itself included; any layer before it at all.
    let (mut depth, mut behind) = (vec![0_usize; count], vec![false; count]);
    let mut placed = vec![false; count];
    let mut join = None;
    for &index in order {
        placed[index] = true;
        let node = &network.nodes[index];
        parent[index] =
            data_input(network, constants, index).filter(|&input| placed.get(input) == Some(&true));
        depth[index] = parent[index].map_or(0, |input| depth[input]) + usize::from(node.op.is_layer());
        behind[index] = node
            .inputs
            .iter()
            .any(|&input| network.nodes.get(input).is_some_and(|node| behind[input] || node.op.is_layer()));
        let has_layers = |&input: &usize| {
            !constants.is_constant(input)
                && network.nodes.get(input).is_some_and(|node| behind[input] || node.op.is_layer())
        };
        if matches!(node.op, Op::Add) && node.inputs.len() == 2 && node.inputs.iter().all(has_layers) {
            join = join.or(Some(index));
        }
    }
    if let Some(index) = join {
        return Err(Error::OtherNetwork(format!(
            "node `{}` of the graph joins two branches, as ResNet, MobileNet v2 and later networks do",
            network.nodes[index].name
        )));
    }
    let layers = |&index: &usize| network.nodes[index].op.is_layer() && placed[index];
    let Some(end) = (0..count).filter(layers).max_by_key(|&index| (depth[index], index)) else {
        return Err(Error::OtherNetwork(format!("the {format} graph has no convolution on constants")));
    };

    let mut path = vec![end];
    while let Some(input) = parent[path[path.len() - 1]] {
        path.push(input);
    }
    let root = path[path.len() - 1];
    if behind[root] || network.nodes[root].op.is_layer() {
        let node = &network.nodes[root];
        let what = match &node.op {
            Op::Other(op) => format!("is a {op}, which MobileNet v1 has not"),
            op if op.is_binary() => {
                "joins two branches, as ResNet, MobileNet v2 and later networks do".to_owned()
            }
            _ if !behind[root] => "reads nothing that comes from the graph's input".to_owned(),
            _ => "has layers before it that are not on the way of the data".to_owned(),
        };
        return Err(Error::OtherNetwork(format!("node `{}` of the graph {what}", node.name)));
    }
    path.reverse();
    let first = path.iter().position(|&index| network.nodes[index].op.is_layer()).unwrap_or(0);
    let front = path.drain(..first).collect();

    let other_heads = (0..count)
        .filter(|&index| index != end && layers(&index) && depth[index] == depth[end])
        .take(4)
        .collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); count];
    for &index in order {
        if let Some(input) = parent[index] {
            children[input].push(index);
        }
    }
    let mut last = end;
    loop {
        let rank = |&index: &usize| match network.nodes[index].op {
            Op::Add | Op::Subtract | Op::Multiply | Op::Divide | Op::BatchNorm { .. } => Some(0),
            Op::Activation(_) | Op::Minimum | Op::Maximum | Op::Pool => Some(1),
            Op::Identity | Op::Reshape | Op::Transpose => Some(2),
            _ => None,
        };
        let ranked = children[last].iter().filter_map(|index| rank(index).map(|rank| (rank, *index)));
        let Some((_, next)) = ranked.min() else { break };
        path.push(next);
        last = next;
    }
    Ok(Path { front, layers: path, other_heads })
}

/// The input that carries data, where there is exactly one.
fn data_input(network: &Network, constants: &Constants<'_>, index: usize) -> Option<usize> {
    let node = &network.nodes[index];
    let data = |number: usize| {
        node.inputs.get(number).copied().filter(|&i| i < network.nodes.len() && !constants.is_constant(i))
    };
    match &node.op {
        Op::Input { .. } | Op::Constant(_) | Op::Other(_) => None,
        Op::Subtract | Op::Divide if data(1).is_some() => None,
        op if op.is_binary() => match (data(0), data(1)) {
            (Some(input), None) | (None, Some(input)) => Some(input),
            _ => None,
        },
        _ => data(0),
    }
}
