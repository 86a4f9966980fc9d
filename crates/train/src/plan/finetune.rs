//! What is chosen, and refused, when a run begins with a trained network.

use mobilenet::Architecture;

use super::{Chooser, Facts, SMALL, at_least, three_digits, wrong};
use crate::error::Result;
use crate::freeze::Freeze;
use crate::recipe::{OptimizerKind, Recipe};

/// With no more photos a class than this, only the classifier learns unless something else is asked
/// for.
const FEW_A_CLASS: usize = 200;

/// The share of the learning rate that is for the body of a trained network.
const BODY_LR_FACTOR: f64 = 0.2;

/// Images a batch of cached features, and the learning rate of AdamW for that.
const HEAD_BATCH: usize = 32;
const HEAD_LR: f64 = 0.003;

/// Images, repetitions counted, that a classifier sees of cached features.
const HEAD_PASSES: usize = 20_000;

impl Chooser {
    /// Refuses settings that the weights of `init` cannot be used with.
    pub(super) fn fits(&self, init: Option<&Architecture>) -> Result<()> {
        let Some(init) = init else { return Ok(()) };
        let r = &self.recipe;
        let conflict = |setting, given: String, theirs: String| {
            let expected = format!("{theirs}, as the network that init names has; leave it out");
            wrong(setting, given, &expected)
        };
        if let Some(width) = r.width.filter(|&width| width != init.width_multiplier) {
            return conflict("width", width.to_string(), init.width_multiplier.to_string());
        }
        if let Some(body) = r.body.filter(|&body| body != init.body) {
            return conflict("body", body.name().into(), init.body.name().into());
        }
        if let Some(channels) = r.channels.filter(|&channels| channels != init.input_channels) {
            return conflict("channels", channels.to_string(), init.input_channels.to_string());
        }
        Ok(())
    }

    /// What stays as it is.
    pub(super) fn freeze(
        &mut self,
        facts: &Facts,
        init: bool,
        architecture: &Architecture,
    ) -> Result<Freeze> {
        let freeze = match self.recipe.freeze {
            Some(freeze) => freeze,
            None => self.choose_freeze(facts, init),
        };
        self.recipe.freeze = Some(freeze);
        if freeze != Freeze::None && !init && self.recipe.init.is_none() {
            let expected = "none, or a trained network to begin with (init): random weights that stay as \
                they are tell nothing";
            return wrong("freeze", freeze, expected);
        }
        let blocks = architecture.blocks();
        match freeze {
            Freeze::Blocks(found) if found > blocks => {
                let expected = format!("0 to {blocks}, as many blocks as the body has, or body");
                return wrong("freeze", found, &expected);
            }
            Freeze::Body => {
                if let Some((setting, value)) = chance(&self.recipe) {
                    let expected = format!(
                        "0, since features are computed once where freeze = body; freeze = {blocks} keeps \
                         the body too and augments images every epoch"
                    );
                    return wrong(setting, value, &expected);
                }
            }
            Freeze::None | Freeze::Blocks(_) => {}
        }
        Ok(freeze)
    }

    fn choose_freeze(&mut self, facts: &Facts, init: bool) -> Freeze {
        let few = facts.images <= FEW_A_CLASS * facts.classes && facts.short_edge > SMALL;
        // Who asks for what only makes sense for a body that learns, or for images that change, has chosen.
        let asked = self.recipe.body_lr_factor.is_some() || chance(&self.recipe).is_some();
        if !init || !few || asked {
            return Freeze::None;
        }
        self.chose(format!(
            "{} images of {} classes, from trained weights → only the classifier learns (freeze = body)",
            facts.images, facts.classes
        ));
        Freeze::Body
    }

    /// Batch size and epochs for a classifier that learns from cached features: steps cost next to
    /// nothing, so there are enough of them even for few images.
    pub(super) fn head_amounts(&mut self, images: usize) {
        if self.recipe.batch_size.is_none() {
            self.recipe.batch_size = Some(HEAD_BATCH);
            self.chose(format!("cached features → batches of {HEAD_BATCH}"));
        }
        if self.recipe.epochs.is_none() {
            let epochs = (HEAD_PASSES / images.max(1)).clamp(30, 100);
            self.recipe.epochs = Some(epochs);
            self.chose(format!("{images} images, cached features → {epochs} epochs"));
        }
    }

    /// Optimizer and learning rate for the same.
    pub(super) fn head_optimizer(&mut self, images_a_step: usize) {
        let r = &mut self.recipe;
        let kind = *r.optimizer.get_or_insert(OptimizerKind::AdamW);
        if kind == OptimizerKind::AdamW && r.lr.is_none() {
            let lr = three_digits(HEAD_LR * (images_a_step as f64 / HEAD_BATCH as f64).sqrt());
            r.lr = Some(lr);
            self.chose(format!("cached features → adamw with lr {lr}"));
        }
    }

    /// The body's share of the learning rate.
    pub(super) fn body_lr_factor(&mut self, freeze: Freeze, init: bool) -> Result<f64> {
        if freeze == Freeze::Body {
            return match self.recipe.body_lr_factor {
                Some(factor) => {
                    wrong("body_lr_factor", factor, "nothing where freeze = body: no body learns")
                }
                None => Ok(1.0),
            };
        }
        if self.recipe.body_lr_factor.is_none() && init {
            self.recipe.body_lr_factor = Some(BODY_LR_FACTOR);
            self.chose(format!("from trained weights → the body learns at {BODY_LR_FACTOR} of the rate"));
        }
        let factor = *self.recipe.body_lr_factor.get_or_insert(1.0);
        at_least("body_lr_factor", factor, 0.0)?;
        if factor == 0.0 || factor > 1.0 {
            return wrong("body_lr_factor", factor, "above 0 and at most 1; to keep the body, freeze it");
        }
        Ok(factor)
    }
}

/// The first setting that asks for another image every epoch, and cannot be had of cached features.
fn chance(r: &Recipe) -> Option<(&'static str, f64)> {
    let settings = [
        ("random_crop", r.random_crop),
        ("pad_crop", r.pad_crop.map(|pixels| pixels as f64)),
        ("jitter", r.jitter),
        ("erase", r.erase),
    ];
    settings.into_iter().find_map(|(setting, value)| Some((setting, value.filter(|&value| value > 0.0)?)))
}
