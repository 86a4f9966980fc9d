//! From a recipe with gaps, and the data, to a run in which everything is decided.

use std::path::Path;
use std::sync::Arc;

use mobilenet::conventions::{Preset, ResizeMode};
use mobilenet::cpu::Precision;
use mobilenet::rng::Rng;
use mobilenet::{Architecture, Model};

use crate::data::{
    Augmentation, ColourJitter, DataOptions, Dataset, Loader, LoaderOptions, RandomResizedCrop, Splits,
    statistics,
};
use crate::error::{Error, Result};
use crate::features::FeatureOptions;
use crate::freeze::Freeze;
use crate::loss::CrossEntropy;
use crate::optimizer::{AdamW, Optimizer, RmsProp, Sgd, WeightDecay};
use crate::recipe::{OptimizerKind, Recipe, ScheduleKind};
use crate::schedule::{Schedule, Shape};

mod finetune;

/// The value of `init` that is no path: the network that the program brings along.
pub const IMAGENET: &str = "imagenet";

/// Images up to this many pixels on their short edge count as small: they keep their size, and
/// the stem its resolution.
const SMALL: usize = 72;

/// How many images are looked at to learn their size and brightness.
const LOOKED_AT: usize = 512;

/// Images that go through a body together when features are computed; changes no feature.
const FEATURE_BATCH: usize = 16;

/// What the choices depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Training images.
    pub images: usize,
    /// Classes.
    pub classes: usize,
    /// Median short edge, in pixels.
    pub short_edge: usize,
    /// Width and height, if all images (that were looked at) have the same.
    pub size: Option<(usize, usize)>,
    /// Whether every image is grey.
    pub grey: bool,
    /// Mean and standard deviation of grey images on the scale 0 to 1.
    pub brightness: Option<(f64, f64)>,
}

impl Facts {
    /// Looks at a few hundred images, evenly spread over the data set.
    ///
    /// # Errors
    /// When the data set is empty, or one of these images cannot be decoded.
    pub fn measure(train: &dyn Dataset) -> Result<Self> {
        let images = train.len();
        if images == 0 {
            return wrong("data", "no images to train on", "at least one a class");
        }
        let looked_at = images.min(LOOKED_AT);
        let indices: Vec<usize> = (0..looked_at).map(|i| i * images / looked_at).collect();
        let sizes: Vec<(usize, usize)> = indices.iter().map(|&i| train.size(i)).collect();
        let mut edges: Vec<usize> = sizes.iter().map(|&(width, height)| width.min(height)).collect();
        edges.sort_unstable();
        let grey = train.is_grey();
        let brightness = if grey { Some(brightness(train)?) } else { None };
        Ok(Self {
            images,
            classes: train.classes().len(),
            short_edge: edges[looked_at / 2],
            size: sizes.iter().all(|size| *size == sizes[0]).then_some(sizes[0]),
            grey,
            brightness,
        })
    }
}

/// Mean and standard deviation of grey images, in three digits.
fn brightness(train: &dyn Dataset) -> Result<(f64, f64)> {
    let found = statistics(train, 1, LOOKED_AT)?;
    let thousandths = |values: &[f32]| (f64::from(values[0]) * 1000.0).round() / 1000.0;
    // Images of one shade must not be blown up.
    Ok((thousandths(&found.mean), thousandths(&found.std).max(0.05)))
}

/// A run in which everything is decided.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The recipe with every choice filled in: the same recipe and data give the same run.
    /// (Left open are only `threads`, `workers`, `recompute` and such, on which results do not depend.)
    pub recipe: Recipe,
    /// What was chosen and why, a line each.
    pub choices: Vec<String>,
    /// The network.
    pub architecture: Architecture,
    /// The augmentation of training images.
    pub augmentation: Augmentation,
    /// What does not learn.
    pub freeze: Freeze,
    /// Passes over the training data.
    pub epochs: usize,
    /// Images a batch.
    pub batch_size: usize,
    /// Batches a step.
    pub accumulate: usize,
    /// The gradient's largest allowed norm.
    pub clip_norm: Option<f64>,
    /// The loss.
    pub loss: CrossEntropy,
    /// Decay of the moving average of the weights.
    pub ema: Option<f64>,
    /// Seed of everything random.
    pub seed: u64,
    /// Seconds between saves within an epoch.
    pub save_seconds: f64,
    /// Whether evaluation averages each image with its mirror image.
    pub tta: bool,
    optimizer: OptimizerPlan,
    schedule: SchedulePlan,
}

#[derive(Clone, Copy, Debug)]
struct OptimizerPlan {
    kind: OptimizerKind,
    lr: f64,
    momentum: f64,
    nesterov: bool,
    rms_decay: f64,
    betas: (f64, f64),
    epsilon: f64,
    decay: WeightDecay,
    body_lr_factor: f64,
}

/// A schedule with its periods in epochs.
#[derive(Clone, Copy, Debug)]
struct SchedulePlan {
    lr: f64,
    shape: Shape,
    warmup_epochs: f64,
}

impl Plan {
    /// The optimizer, before its first step.
    pub fn optimizer(&self) -> Box<dyn Optimizer> {
        let o = self.optimizer;
        match o.kind {
            OptimizerKind::Sgd => {
                let sgd = Sgd::new(o.lr, o.momentum, 0.0).nesterov(o.nesterov);
                Box::new(sgd.decay(o.decay).body_lr_factor(o.body_lr_factor))
            }
            OptimizerKind::RmsProp => {
                let rms_prop = RmsProp::new(o.lr, o.rms_decay, o.momentum, o.epsilon, 0.0);
                Box::new(rms_prop.decay(o.decay).body_lr_factor(o.body_lr_factor))
            }
            OptimizerKind::AdamW => {
                let (beta1, beta2) = o.betas;
                let adamw = AdamW::new(o.lr, 0.0).moments(beta1, beta2, o.epsilon);
                Box::new(adamw.decay(o.decay).body_lr_factor(o.body_lr_factor))
            }
        }
    }

    /// The learning rates, given how many optimizer steps an epoch has.
    pub fn schedule(&self, steps_per_epoch: usize) -> Schedule {
        let per_epoch = steps_per_epoch as f64;
        let shape = match self.schedule.shape {
            Shape::Staircase { period, factor } => Shape::Staircase { period: period * per_epoch, factor },
            other => other,
        };
        Schedule {
            lr: self.schedule.lr,
            shape,
            warmup_steps: (self.schedule.warmup_epochs * per_epoch).round() as u64,
            total_steps: (self.epochs * steps_per_epoch) as u64,
        }
    }

    /// Batches of augmented training images, in another order every epoch. An epoch leaves out
    /// the images that do not fill a batch, other ones every time.
    ///
    /// # Errors
    /// When the loader cannot be made.
    pub fn training_loader(&self, data: &Splits) -> Result<Loader> {
        let drop_last = data.train.len() >= self.batch_size;
        let augmentation = self.augmentation.clone();
        self.loader(&data.train, LoaderOptions { shuffle: true, drop_last, augmentation, ..self.options() })
    }

    /// Batches of held-out images, in their order.
    ///
    /// # Errors
    /// When the loader cannot be made.
    pub fn evaluation_loader(&self, data: &Splits) -> Result<Loader> {
        self.loader(&data.held_out, self.options())
    }

    /// Whether the classifier learns from features that are computed once.
    pub fn caches_features(&self) -> bool {
        self.freeze == Freeze::Body
    }

    /// Batches of the images of one part, without augmentation, each wanted once.
    ///
    /// # Errors
    /// When the loader cannot be made.
    pub fn feature_loader(&self, images: &Arc<dyn Dataset>) -> Result<Loader> {
        self.loader(images, LoaderOptions { batch_size: FEATURE_BATCH, cache_bytes: 0, ..self.options() })
    }

    /// How batches of training features are made: as [`Plan::training_loader`] makes them of images.
    pub fn training_features(&self, data: &Splits) -> FeatureOptions {
        let flip = self.augmentation.flip;
        let drop_last = data.train.len() >= self.batch_size;
        FeatureOptions { shuffle: true, drop_last, flip, mirrored: flip, ..self.held_out_features() }
    }

    /// How batches of held-out features are made.
    pub fn held_out_features(&self) -> FeatureOptions {
        FeatureOptions {
            batch_size: self.batch_size,
            shuffle: false,
            drop_last: false,
            mirrored: self.tta,
            flip: false,
            seed: self.seed,
        }
    }

    fn options(&self) -> LoaderOptions {
        let defaults = LoaderOptions::new(&self.architecture, self.batch_size);
        LoaderOptions {
            seed: self.seed,
            workers: self.recipe.workers.unwrap_or(0),
            cache_bytes: self
                .recipe
                .cache_mib
                .map_or(defaults.cache_bytes, |mib| mib.saturating_mul(1 << 20)),
            strict: self.recipe.strict.unwrap_or(false),
            ..defaults
        }
    }

    fn loader(&self, images: &Arc<dyn Dataset>, options: LoaderOptions) -> Result<Loader> {
        Ok(Loader::new(Arc::clone(images), options)?)
    }

    /// The model that the run begins with: random, or `init`, with a random classifier unless its
    /// classes are the same.
    ///
    /// # Errors
    /// When `init` does not fit the network.
    pub fn model(&self, labels: &[String], init: Option<&Model>) -> Result<Model> {
        let mut model = Model::random(self.architecture.clone(), labels.to_vec(), self.seed)?;
        if let Some(init) = init {
            let same_classes = init.labels == labels;
            for (name, tensor) in init.weights.iter() {
                if same_classes || !name.starts_with("classifier.") {
                    model.weights.insert(name, tensor.clone());
                }
            }
            model.check()?;
        }
        Ok(model)
    }

    /// The seed for the dropout of one of the batches of a step.
    pub fn dropout_seed(&self, step: u64, part: usize) -> u64 {
        Rng::keyed(self.seed, &[0x6472_6f70, step, part as u64]).next_u64()
    }
}

/// Fills the gaps of a recipe and remembers why.
struct Chooser {
    recipe: Recipe,
    choices: Vec<String>,
}

impl Recipe {
    /// What to open, as far as this recipe tells.
    pub fn data_options(&self) -> DataOptions {
        let defaults = DataOptions::default();
        DataOptions {
            data: self.data.clone(),
            val: self.val.clone(),
            hold_out: self.hold_out.unwrap_or(defaults.hold_out),
            seed: self.seed.unwrap_or(defaults.seed),
            strict: self.strict.unwrap_or(defaults.strict),
            ..defaults
        }
    }

    /// Fills every gap from what is known of the data, and from the network that `init` holds,
    /// if the run begins with one.
    ///
    /// # Errors
    /// When a setting is outside its range; the error names it.
    pub fn resolve(&self, facts: &Facts, init: Option<&Architecture>) -> Result<Plan> {
        let mut chooser = Chooser { recipe: self.clone(), choices: Vec::new() };
        chooser.paths()?;
        chooser.fits(init)?;
        let architecture = chooser.architecture(facts, init)?;
        let freeze = chooser.freeze(facts, init.is_some(), &architecture)?;
        let augmentation = chooser.augmentation(facts, &architecture)?;
        let small = facts.short_edge <= SMALL;
        let (epochs, batch_size, accumulate) = chooser.amounts(facts, small, init.is_some())?;
        let optimizer = chooser.optimizer(small, batch_size * accumulate, init.is_some(), freeze)?;
        let schedule = chooser.schedule(optimizer.lr, epochs)?;
        let r = &mut chooser.recipe;
        let clip = *r.clip_norm.get_or_insert(0.0);
        at_least("clip_norm", clip, 0.0)?;
        let label_smoothing = *r.label_smoothing.get_or_insert(if init.is_some() { 0.1 } else { 0.0 });
        share("label_smoothing", label_smoothing)?;
        let ema = *r.ema.get_or_insert(0.0);
        share("ema", ema)?;
        let save_seconds = *r.save_seconds.get_or_insert(60.0);
        at_least("save_seconds", save_seconds, 0.0)?;
        let seed = *r.seed.get_or_insert(0);
        if i64::try_from(seed).is_err() {
            return wrong("seed", seed, "at most 9223372036854775807, the largest number in TOML");
        }
        for (setting, value) in [("threads", r.threads), ("workers", r.workers)] {
            if matches!(value, Some(0) | Some(1025..)) {
                return wrong(setting, value.unwrap_or(0), "1 to 1024");
            }
        }
        r.precision.get_or_insert(Precision::F32);
        let tta = *r.tta.get_or_insert(false);
        let loss = CrossEntropy::new(&architecture, label_smoothing);
        Ok(Plan {
            recipe: chooser.recipe,
            choices: chooser.choices,
            architecture,
            augmentation,
            freeze,
            epochs,
            batch_size,
            accumulate,
            clip_norm: (clip > 0.0).then_some(clip),
            loss,
            ema: (ema > 0.0).then_some(ema),
            seed,
            save_seconds,
            tta,
            optimizer,
            schedule,
        })
    }
}

impl Chooser {
    fn chose(&mut self, line: String) {
        self.choices.push(line);
    }

    /// Makes paths absolute, so that the run can be resumed from any folder.
    fn paths(&mut self) -> Result<()> {
        let r = &mut self.recipe;
        let init = r.init.as_mut().filter(|path| **path != Path::new(IMAGENET));
        for path in r.data.iter_mut().chain(&mut r.val).chain(init) {
            *path = std::path::absolute(&*path).map_err(Error::io(&*path, "resolve"))?;
        }
        let hold_out = *r.hold_out.get_or_insert(0.2);
        if !(hold_out > 0.0 && hold_out < 1.0) {
            return wrong("hold_out", hold_out, "a share above 0 and below 1");
        }
        r.strict.get_or_insert(false);
        Ok(())
    }

    fn architecture(&mut self, facts: &Facts, init: Option<&Architecture>) -> Result<Architecture> {
        if let Some(classes) = self.recipe.classes.filter(|&classes| classes != facts.classes) {
            return wrong("classes", classes, &format!("{}, as many as the data has", facts.classes));
        }
        let (edge, small) = (facts.short_edge, facts.short_edge <= SMALL);
        let shown = match facts.size {
            Some((width, height)) => format!("images are {width}×{height}"),
            None => format!("images are about {edge} pixels on their short edge"),
        };
        if self.recipe.resolution.is_none() && init.is_none() {
            let resolution = if small { edge.max(8) } else { (edge / 32 * 32).clamp(64, 224) };
            self.recipe.resolution = Some(resolution);
            self.chose(format!("{shown} → resolution {resolution}"));
        }
        let mut a = init.cloned().unwrap_or_default();
        a.classes = facts.classes;
        a.resolution = *self.recipe.resolution.get_or_insert(a.resolution);
        if self.recipe.stem_stride.is_none() && init.is_none() {
            let stride = if a.resolution <= SMALL { 1 } else { 2 };
            self.recipe.stem_stride = Some(stride);
            self.chose(format!("resolution {} → stem stride {stride}", a.resolution));
        }
        a.stem_stride = *self.recipe.stem_stride.get_or_insert(a.stem_stride);
        if self.recipe.channels.is_none() && init.is_none() && facts.grey {
            self.recipe.channels = Some(1);
            self.chose("every image is grey → one input channel".into());
        }
        a.input_channels = *self.recipe.channels.get_or_insert(a.input_channels);
        if self.recipe.width.is_none() && init.is_none() {
            let (width, why) = if small {
                (0.25, "small images")
            } else if facts.images < 100_000 {
                (0.5, "fewer than 100000 images")
            } else {
                (1.0, "100000 images or more")
            };
            self.recipe.width = Some(width);
            self.chose(format!("{why} → width {width}"));
        }
        a.width_multiplier = *self.recipe.width.get_or_insert(a.width_multiplier);
        a.output_stride = *self.recipe.output_stride.get_or_insert(a.output_stride);
        a.body = *self.recipe.body.get_or_insert(a.body);
        self.conventions(facts, init, &mut a);
        a.validate()?;
        // Shows at once what only the whole table of layers can tell.
        a.layers()?;
        Ok(a)
    }

    fn conventions(&mut self, facts: &Facts, init: Option<&Architecture>, a: &mut Architecture) {
        let r = &mut self.recipe;
        if r.conventions.is_some() || init.is_none() {
            let mut conventions = r.conventions.get_or_insert(Preset::Reference).conventions();
            // Labels from folders have no background class; only a preset's weights do.
            conventions.background_class = false;
            a.conventions = conventions;
        }
        if init.is_some_and(|init| init.classes != facts.classes) {
            a.conventions.background_class = false;
        }
        let c = &mut a.conventions;
        if let Some(resize) = r.resize {
            c.preprocessing.resize = resize;
        }
        let channels = a.input_channels;
        let mut chosen = Vec::new();
        if c.preprocessing.mean.len() != channels {
            // Of three values, the mean stands for grey.
            for values in [&mut c.preprocessing.mean, &mut c.preprocessing.std] {
                let mean = values.iter().sum::<f32>() / values.len().max(1) as f32;
                *values = vec![mean; channels];
            }
            if let (1, Some((mean, std)), None) = (channels, facts.brightness, &r.mean) {
                c.preprocessing.mean = vec![mean as f32];
                c.preprocessing.std = vec![std as f32];
                chosen.push(format!("measured brightness → mean {mean}, standard deviation {std}"));
            }
        }
        // Images that already have the network's size are not enlarged and cropped.
        if r.crop_fraction.is_none() && init.is_none() && facts.size == Some((a.resolution, a.resolution)) {
            c.preprocessing.crop_fraction = 1.0;
        }
        c.padding = *r.padding.get_or_insert(c.padding);
        c.activation = *r.activation.get_or_insert(c.activation);
        c.bn_epsilon = filled(&mut r.bn_epsilon, c.bn_epsilon);
        c.bn_momentum = filled(&mut r.bn_momentum, c.bn_momentum);
        c.width_rounding = *r.width_rounding.get_or_insert(c.width_rounding);
        c.background_class = *r.background_class.get_or_insert(c.background_class);
        c.dropout = filled(&mut r.dropout, c.dropout);
        let p = &mut c.preprocessing;
        for (setting, value) in [(&mut r.mean, &mut p.mean), (&mut r.std, &mut p.std)] {
            let given = setting.get_or_insert_with(|| value.iter().map(|&v| shortest(v)).collect());
            *value = given.iter().map(|&v| v as f32).collect();
        }
        p.resize = *r.resize.get_or_insert(p.resize);
        p.crop_fraction = *r.crop_fraction.get_or_insert(p.crop_fraction);
        p.interpolation = *r.interpolation.get_or_insert(p.interpolation);
        self.choices.append(&mut chosen);
    }

    fn augmentation(&mut self, facts: &Facts, architecture: &Architecture) -> Result<Augmentation> {
        let resolution = architecture.resolution;
        let small = facts.short_edge <= SMALL;
        if self.recipe.freeze == Some(Freeze::Body) {
            self.recipe.random_crop = Some(0.0);
            self.recipe.pad_crop = Some(0);
        }
        let squash = architecture.conventions.preprocessing.resize == ResizeMode::Squash;
        if self.recipe.pad_crop.is_none() && self.recipe.random_crop.is_none() {
            if small {
                let pad = (resolution as f64 / 14.0).round().max(1.0) as usize;
                self.recipe.pad_crop = Some(pad);
                self.chose(format!("small images → pad by {pad} and crop at random"));
            } else if !squash {
                let area = if facts.images < 20_000 { 0.35 } else { 0.08 };
                self.recipe.random_crop = Some(area);
                self.chose(format!("photos → random crops of at least {:.0} % of the area", 100.0 * area));
            }
        }
        if self.recipe.flip.is_none() {
            // The embedded sample shows clothes; any other small grey image may be a character.
            let characters = small && facts.grey && self.recipe.data.is_some();
            self.recipe.flip = Some(!characters);
            self.chose(if characters {
                "small grey images may be characters → no mirror images (flip = true if they may be mirrored)"
                    .into()
            } else {
                "mirror half of the images".into()
            });
        }
        let r = &mut self.recipe;
        let random_crop = *r.random_crop.get_or_insert(0.0);
        share("random_crop", random_crop)?;
        let pad_crop = *r.pad_crop.get_or_insert(0);
        if pad_crop > resolution {
            return wrong("pad_crop", pad_crop, &format!("at most the resolution, {resolution}"));
        }
        let jitter = *r.jitter.get_or_insert(0.0);
        share("jitter", jitter)?;
        let erase = *r.erase.get_or_insert(0.0);
        if !(0.0..=1.0).contains(&erase) {
            return wrong("erase", erase, "a probability, 0 to 1");
        }
        Ok(augmentation(random_crop, pad_crop, r.flip.unwrap_or(false), jitter, erase))
    }

    /// Epochs, batch size and batches a step.
    fn amounts(&mut self, facts: &Facts, small: bool, init: bool) -> Result<(usize, usize, usize)> {
        let images = facts.images;
        if self.recipe.freeze == Some(Freeze::Body) {
            self.head_amounts(images);
        }
        if self.recipe.batch_size.is_none() {
            let most = if small { 128 } else { 32 };
            let mut batch = most;
            while batch > 4 && images / batch < 16 {
                batch /= 2;
            }
            self.recipe.batch_size = Some(batch);
            self.chose(format!("{images} images → batches of {batch}"));
        }
        if self.recipe.epochs.is_none() {
            let (passes, range) = match (init, small) {
                (true, _) => (50_000, 5..=20),
                (false, true) => (200_000, 6..=60),
                (false, false) => (500_000, 30..=90),
            };
            let epochs = (passes / images.max(1)).clamp(*range.start(), *range.end());
            self.recipe.epochs = Some(epochs);
            self.chose(format!("{images} images → {epochs} epochs"));
        }
        let r = &mut self.recipe;
        let accumulate = *r.accumulate.get_or_insert(1);
        let (epochs, batch_size) = (r.epochs.unwrap_or(1), r.batch_size.unwrap_or(1));
        for (setting, value) in [("epochs", epochs), ("batch_size", batch_size), ("accumulate", accumulate)] {
            if !(1..=1_000_000).contains(&value) {
                return wrong(setting, value, "1 to 1000000");
            }
        }
        Ok((epochs, batch_size, accumulate))
    }

    fn optimizer(
        &mut self,
        small: bool,
        images_a_step: usize,
        init: bool,
        freeze: Freeze,
    ) -> Result<OptimizerPlan> {
        if freeze == Freeze::Body {
            self.head_optimizer(images_a_step);
        }
        let kind = *self.recipe.optimizer.get_or_insert_default();
        let body_lr_factor = self.body_lr_factor(freeze, init)?;
        if self.recipe.lr.is_none() {
            // Proportional to the images of a step (Goyal et al. 2017), but for AdamW.
            let images = images_a_step as f64;
            let from_scratch = match kind {
                OptimizerKind::Sgd if small => 0.2 * images / 128.0,
                OptimizerKind::Sgd => 0.1 * images / 64.0,
                OptimizerKind::RmsProp => 0.045 * images / 64.0,
                OptimizerKind::AdamW => 0.002 * (images / 128.0).sqrt(),
            };
            let lr = three_digits(if init { from_scratch / 5.0 } else { from_scratch });
            self.recipe.lr = Some(lr);
            let start = if init { ", from trained weights" } else { "" };
            self.chose(format!("{} with {images_a_step} images a step{start} → lr {lr}", kind.name()));
        }
        let r = &mut self.recipe;
        let lr = r.lr.unwrap_or(0.0);
        if !(lr > 0.0 && lr.is_finite()) {
            return wrong("lr", lr, "a number above 0");
        }
        let momentum = *r.momentum.get_or_insert(0.9);
        share("momentum", momentum)?;
        let nesterov = *r.nesterov.get_or_insert(kind == OptimizerKind::Sgd && momentum > 0.0);
        if nesterov && (momentum == 0.0 || kind != OptimizerKind::Sgd) {
            return wrong("nesterov", true, "false, unless the optimizer is sgd with momentum");
        }
        let rms_decay = *r.rms_decay.get_or_insert(0.9);
        share("rms_decay", rms_decay)?;
        let betas = (*r.beta1.get_or_insert(0.9), *r.beta2.get_or_insert(0.999));
        share("beta1", betas.0)?;
        share("beta2", betas.1)?;
        // TF-slim's trainer takes 1.0 for RMSprop.
        let epsilon = *r.epsilon.get_or_insert(if kind == OptimizerKind::RmsProp { 1.0 } else { 1e-8 });
        if !(epsilon > 0.0 && epsilon.is_finite()) {
            return wrong("epsilon", epsilon, "a number above 0");
        }
        let rate = *r.weight_decay.get_or_insert(match kind {
            OptimizerKind::Sgd if small => 5e-4,
            OptimizerKind::Sgd => 1e-4,
            OptimizerKind::RmsProp => 4e-5,
            OptimizerKind::AdamW => 0.05,
        });
        at_least("weight_decay", rate, 0.0)?;
        let decay = WeightDecay {
            rate,
            depthwise: *r.decay_depthwise.get_or_insert(false),
            bn: *r.decay_bn.get_or_insert(false),
            bias: *r.decay_bias.get_or_insert(false),
        };
        Ok(OptimizerPlan { kind, lr, momentum, nesterov, rms_decay, betas, epsilon, decay, body_lr_factor })
    }

    fn schedule(&mut self, lr: f64, epochs: usize) -> Result<SchedulePlan> {
        let r = &mut self.recipe;
        let positive = |setting, value: f64| {
            if value > 0.0 && value.is_finite() {
                Ok(value)
            } else {
                wrong(setting, value, "a number above 0")
            }
        };
        let shape = match *r.schedule.get_or_insert_default() {
            ScheduleKind::Constant => Shape::Constant,
            ScheduleKind::Step => Shape::Staircase {
                period: positive("step_epochs", *r.step_epochs.get_or_insert(30.0))?,
                factor: positive("step_factor", *r.step_factor.get_or_insert(0.1))?,
            },
            ScheduleKind::Exponential => Shape::Staircase {
                period: positive("decay_epochs", *r.decay_epochs.get_or_insert(2.5))?,
                factor: positive("decay_factor", *r.decay_factor.get_or_insert(0.94))?,
            },
            ScheduleKind::Cosine => Shape::Cosine,
            ScheduleKind::OneCycle => {
                let rise = *r.cycle_rise.get_or_insert(0.3);
                share("cycle_rise", rise)?;
                Shape::OneCycle {
                    rise,
                    div: positive("cycle_div", *r.cycle_div.get_or_insert(25.0))?,
                    final_div: positive("cycle_final_div", *r.cycle_final_div.get_or_insert(1e4))?,
                }
            }
        };
        let warmup_epochs = *r.warmup_epochs.get_or_insert(0.0);
        if !(warmup_epochs >= 0.0 && warmup_epochs <= epochs as f64) {
            return wrong("warmup_epochs", warmup_epochs, &format!("0 to the number of epochs, {epochs}"));
        }
        Ok(SchedulePlan { lr, shape, warmup_epochs })
    }
}

fn augmentation(random_crop: f64, pad_crop: usize, flip: bool, jitter: f64, erase: f64) -> Augmentation {
    let crop = RandomResizedCrop { scale: [random_crop, 1.0], ..RandomResizedCrop::default() };
    Augmentation {
        random_resized_crop: (random_crop > 0.0).then_some(crop),
        pad_crop: (pad_crop > 0).then_some(pad_crop),
        flip,
        colour: ColourJitter { brightness: jitter, contrast: jitter, saturation: jitter },
        erase,
        ..Augmentation::default()
    }
}

fn wrong<T>(setting: &'static str, found: impl ToString, expected: &str) -> Result<T> {
    Err(Error::Setting { setting, found: found.to_string(), expected: expected.to_owned() })
}

fn at_least(setting: &'static str, value: f64, least: f64) -> Result<()> {
    if value >= least && value.is_finite() {
        Ok(())
    } else {
        wrong(setting, value, &format!("a number of at least {least}"))
    }
}

fn share(setting: &'static str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) { Ok(()) } else { wrong(setting, value, "0 to below 1") }
}

/// The setting, filled with the given default, as f32.
fn filled(setting: &mut Option<f64>, default: f32) -> f32 {
    *setting.get_or_insert(shortest(default)) as f32
}

/// The f64 that prints like `value`: 0.1, not 0.10000000149011612.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn three_digits(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}
