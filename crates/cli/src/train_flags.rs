//! The flags of `mobilenet train`: one for each key of a recipe, laid over the recipe file.

use std::path::PathBuf;

use clap::Args;
use mobilenet::cpu::Precision;
use mobilenet_train::recipe::{OptimizerKind, ScheduleKind};
use mobilenet_train::{Freeze, Recipe};

use crate::architecture_flags::{ArchitectureFlags, one_of};
use crate::failure::{Failure, Outcome};

/// What is learnt from.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Data")]
pub struct DataFlags {
    /// Folder with a folder a class (or train/ and val/ with those), IDX files, or a CSV/TSV list
    /// [default: the built-in sample of Fashion-MNIST]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Data to evaluate on, where it is not beside --data
    #[arg(long, value_name = "PATH")]
    val: Option<PathBuf>,
    /// Share of each class to hold out where the data has no part for it [default: 0.2]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    hold_out: Option<f64>,
    /// Fail on a file that is not an image, instead of skipping and listing it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    strict: Option<bool>,
    /// Decoded images kept in memory, in MiB
    #[arg(long, visible_alias = "cache", value_name = "MIB")]
    cache_mib: Option<u64>,
    /// Threads that decode and augment [default: one a core]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
}

/// How it is learnt.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Training")]
pub struct OptimizerFlags {
    /// Model file or run folder to start from, instead of random weights, or `imagenet`: the network
    /// that is built in. Where the classes are others, the classifier begins anew
    #[arg(long, value_name = "MODEL")]
    init: Option<PathBuf>,
    /// What of --init stays as it is: `body` (only the classifier learns, from features computed
    /// once: seconds), so many blocks from the first convolution on, or `none`
    /// [default: body for up to 200 photos a class on average, else none]
    #[arg(long, value_name = "body|N|none", allow_negative_numbers = true)]
    freeze: Option<Freeze>,
    /// Passes over the training images
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Images a batch
    #[arg(long, alias = "batch", value_name = "N")]
    batch_size: Option<usize>,
    /// Batches whose gradients make one step
    #[arg(long, value_name = "N")]
    accumulate: Option<usize>,
    /// What changes the weights
    #[arg(long, value_parser = one_of::<OptimizerKind>(OptimizerKind::ALL.map(OptimizerKind::name)))]
    optimizer: Option<OptimizerKind>,
    /// Momentum of SGD and RMSprop
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    momentum: Option<f64>,
    /// Nesterov's momentum (SGD)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    nesterov: Option<bool>,
    /// Decay of the mean square (RMSprop)
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true)]
    rms_decay: Option<f64>,
    /// Decay of the first moment (AdamW)
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true)]
    beta1: Option<f64>,
    /// Decay of the second moment (AdamW)
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true)]
    beta2: Option<f64>,
    /// What keeps the divisor from zero (RMSprop, AdamW)
    #[arg(long, value_name = "EPSILON", allow_negative_numbers = true)]
    epsilon: Option<f64>,
    /// Weight decay
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true)]
    weight_decay: Option<f64>,
    /// Whether depthwise filters decay too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    decay_depthwise: Option<bool>,
    /// Whether batch normalisation's γ and β decay too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    decay_bn: Option<bool>,
    /// Whether the classifier's bias decays too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    decay_bias: Option<bool>,
    /// Largest norm of the gradient; 0 for no limit
    #[arg(long, visible_alias = "clip", value_name = "NORM", allow_negative_numbers = true)]
    clip_norm: Option<f64>,
    /// Share of each label that is spread over all classes
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    label_smoothing: Option<f64>,
    /// Probability with which a pooled feature is dropped
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    dropout: Option<f64>,
    /// Decay of a moving average of the weights, which is then what is saved; 0 for none
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true)]
    ema: Option<f64>,
}

/// How fast, when.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Learning rate")]
pub struct ScheduleFlags {
    /// Learning rate: the highest of the schedule
    #[arg(long, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Share of it for the body; the classifier has all of it [default: 0.2 with --init, else 1]
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    body_lr_factor: Option<f64>,
    /// How the learning rate changes
    #[arg(long, value_parser = one_of::<ScheduleKind>(ScheduleKind::ALL.map(ScheduleKind::name)))]
    schedule: Option<ScheduleKind>,
    /// Epochs in which the learning rate first rises from 0
    #[arg(long, visible_alias = "warmup", value_name = "EPOCHS", allow_negative_numbers = true)]
    warmup_epochs: Option<f64>,
    /// step: epochs between changes
    #[arg(long, value_name = "EPOCHS", allow_negative_numbers = true)]
    step_epochs: Option<f64>,
    /// step: factor of each change
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    step_factor: Option<f64>,
    /// exponential: epochs between changes
    #[arg(long, value_name = "EPOCHS", allow_negative_numbers = true)]
    decay_epochs: Option<f64>,
    /// exponential: factor of each change
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    decay_factor: Option<f64>,
    /// one-cycle: share of the steps in which it rises
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    cycle_rise: Option<f64>,
    /// one-cycle: --lr divided by the first learning rate
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    cycle_div: Option<f64>,
    /// one-cycle: the first learning rate divided by the last
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    cycle_final_div: Option<f64>,
}

/// How images are varied.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Augmentation")]
pub struct AugmentationFlags {
    /// Mirror half of the images
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    flip: Option<bool>,
    /// Zero pixels around an image before a crop at a random place; 0 for none
    #[arg(long, value_name = "PIXELS")]
    pad_crop: Option<usize>,
    /// Smallest share of the area that a random crop, then resized, keeps; 0 for no crop
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    random_crop: Option<f64>,
    /// Change of brightness, contrast and saturation, 0 to 1
    #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true)]
    jitter: Option<f64>,
    /// Probability with which a random rectangle is erased
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    erase: Option<f64>,
}

/// The run itself.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Run")]
pub struct RunFlags {
    /// Seed of everything random [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Number format of feature maps and their gradients while training and evaluating: f32, or bf16 (little
    /// more than half the memory, faster where the processor has AMX); weights stay f32 [default: f32]
    #[arg(long, value_name = "FORMAT")]
    precision: Option<Precision>,
    /// Threads that compute; results do not depend on it [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Compute depthwise outputs again on the way back instead of keeping them: a quarter less memory for
    /// a twentieth to a tenth more time, and the same results
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    recompute: Option<bool>,
    /// Seconds between saves within an epoch
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    save_seconds: Option<f64>,
    /// Evaluate each image together with its mirror image
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tta: Option<bool>,
}

/// Every flag that is a key of a recipe.
#[derive(Args, Clone, Debug)]
pub struct RecipeFlags {
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    architecture: ArchitectureFlags,
    #[command(flatten)]
    optimizer: OptimizerFlags,
    #[command(flatten)]
    schedule: ScheduleFlags,
    #[command(flatten)]
    augmentation: AugmentationFlags,
    #[command(flatten)]
    run: RunFlags,
}

impl RecipeFlags {
    /// A recipe of what was given, and no more.
    pub fn recipe(self) -> Recipe {
        let Self { data, architecture, optimizer, schedule, augmentation, run } = self;
        Recipe {
            data: data.data,
            val: data.val,
            hold_out: data.hold_out,
            strict: data.strict,
            cache_mib: data.cache_mib,
            workers: data.workers,
            width: architecture.width,
            resolution: architecture.resolution,
            body: architecture.body,
            stem_stride: architecture.stem_stride,
            output_stride: architecture.output_stride,
            classes: architecture.classes,
            channels: architecture.channels,
            conventions: architecture.conventions,
            init: optimizer.init,
            freeze: optimizer.freeze,
            epochs: optimizer.epochs,
            batch_size: optimizer.batch_size,
            accumulate: optimizer.accumulate,
            optimizer: optimizer.optimizer,
            momentum: optimizer.momentum,
            nesterov: optimizer.nesterov,
            rms_decay: optimizer.rms_decay,
            beta1: optimizer.beta1,
            beta2: optimizer.beta2,
            epsilon: optimizer.epsilon,
            weight_decay: optimizer.weight_decay,
            decay_depthwise: optimizer.decay_depthwise,
            decay_bn: optimizer.decay_bn,
            decay_bias: optimizer.decay_bias,
            clip_norm: optimizer.clip_norm,
            label_smoothing: optimizer.label_smoothing,
            dropout: optimizer.dropout,
            ema: optimizer.ema,
            lr: schedule.lr,
            body_lr_factor: schedule.body_lr_factor,
            schedule: schedule.schedule,
            warmup_epochs: schedule.warmup_epochs,
            step_epochs: schedule.step_epochs,
            step_factor: schedule.step_factor,
            decay_epochs: schedule.decay_epochs,
            decay_factor: schedule.decay_factor,
            cycle_rise: schedule.cycle_rise,
            cycle_div: schedule.cycle_div,
            cycle_final_div: schedule.cycle_final_div,
            flip: augmentation.flip,
            pad_crop: augmentation.pad_crop,
            random_crop: augmentation.random_crop,
            jitter: augmentation.jitter,
            erase: augmentation.erase,
            seed: run.seed,
            precision: run.precision,
            threads: run.threads,
            recompute: run.recompute,
            save_seconds: run.save_seconds,
            tta: run.tta,
            ..Recipe::default()
        }
    }
}

/// What may be given when a run goes on: what changes no result.
pub fn for_resume(given: &Recipe) -> Outcome<Recipe> {
    let allowed = Recipe {
        threads: given.threads,
        workers: given.workers,
        recompute: given.recompute,
        cache_mib: given.cache_mib,
        save_seconds: given.save_seconds,
        ..Recipe::default()
    };
    if *given == allowed {
        return Ok(allowed);
    }
    let (all, kept) = (toml::Table::try_from(given)?, toml::Table::try_from(&allowed)?);
    let key = all.keys().find(|key| !kept.contains_key(*key)).map_or("", String::as_str);
    Err(Failure::usage(format!(
        "--{} cannot be given with --resume: the run goes on as it began (only --threads, --workers, \
         --recompute, --cache-mib and --save-seconds may change)",
        key.replace('_', "-")
    )))
}
