//! The report of a run: one HTML file that needs nothing else.

use std::fmt::Write;

use mobilenet::Architecture;

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::evaluation::Evaluation;
use crate::metrics::{EpochRecord, Record};
use crate::recipe::Recipe;

mod chart;
mod confusion;
mod thumbnail;

use chart::{Chart, Series};

/// What a report shows.
pub struct Report<'a> {
    /// The heading: the name of the run.
    pub title: String,
    /// The recipe with every choice filled in.
    pub recipe: &'a Recipe,
    /// The network.
    pub architecture: &'a Architecture,
    /// What was chosen and why.
    pub choices: &'a [String],
    /// One sentence about the data.
    pub description: &'a str,
    /// The run's records so far.
    pub records: &'a [Record],
    /// The best epoch.
    pub best: &'a EpochRecord,
    /// The evaluation of the best epoch.
    pub evaluation: &'a Evaluation,
    /// Epochs in the whole run.
    pub epochs: usize,
    /// The images that the mistakes' indices mean.
    pub images: &'a dyn Dataset,
}

impl Report<'_> {
    /// The report as an HTML page: no script, no font, no image from anywhere else.
    ///
    /// # Errors
    /// When the architecture is out of range. A mistake whose image can no longer be read is
    /// shown without it.
    pub fn to_html(&self) -> Result<String> {
        let mut html = String::with_capacity(1 << 17);
        let title = escape(&self.title);
        let sections = [
            self.tiles()?,
            self.curves(),
            confusion::section(self.evaluation),
            self.mistakes(),
            self.classes(),
            self.epochs(),
            self.recipe()?,
        ];
        write!(
            html,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title} – MobileNet v1</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n\
             <header><p class=\"kicker\">MobileNet v1, training report</p><h1>{title}</h1>\
             <p class=\"muted\">{}</p></header>\n",
            include_str!("report.css"),
            escape(self.description),
        )
        .map_err(unformatted)?;
        sections.iter().for_each(|section| html.push_str(section));
        html.push_str("</main>\n</body>\n</html>\n");
        Ok(html)
    }

    fn tiles(&self) -> Result<String> {
        let (best, evaluation, a) = (self.best, self.evaluation, self.architecture);
        let cost = a.cost(1)?;
        let last = self.epoch_records().last().map_or(best, |last| last);
        let state = if last.epoch < self.epochs {
            format!("{} of {}", last.epoch, self.epochs)
        } else {
            last.epoch.to_string()
        };
        let tiles = [
            (
                "Top-1",
                percent(evaluation.top1),
                format!("{} held-out images", thousands(evaluation.count as u64)),
            ),
            ("Top-5", percent(evaluation.top5), format!("{} classes", evaluation.classes.len())),
            ("Loss", format!("{:.4}", evaluation.loss), format!("best epoch: {}", best.epoch)),
            ("Epochs", state, format!("{} steps", thousands(last.step))),
            (
                "Time",
                duration(last.seconds),
                format!(
                    "{:.0} images/s in training; {} of it waiting for images",
                    last.images_per_second,
                    percent(last.data_wait)
                ),
            ),
            (
                "Network",
                format!("α {}, {}²", a.width_multiplier, a.resolution),
                format!(
                    "{} parameters, {} mult-adds",
                    magnitude(cost.parameters()),
                    magnitude(cost.mult_adds())
                ),
            ),
        ];
        let mut html = String::from("<section class=\"tiles\">\n");
        for (name, value, note) in tiles {
            html += &format!(
                "<div class=\"tile\"><div class=\"name\">{name}</div><div class=\"value\">{value}</div>\
                 <div class=\"muted\">{note}</div></div>\n"
            );
        }
        Ok(html + "</section>\n")
    }

    fn epoch_records(&self) -> impl DoubleEndedIterator<Item = &EpochRecord> {
        self.records.iter().filter_map(|record| match record {
            Record::Epoch(epoch) => Some(epoch),
            Record::Step(_) => None,
        })
    }

    fn curves(&self) -> String {
        // Steps on an axis of epochs.
        let steps_per_epoch =
            self.epoch_records().last().map_or(1.0, |last| last.step as f64 / last.epoch as f64).max(1.0);
        let steps = |value: fn(&crate::metrics::StepRecord) -> f64| -> Vec<(f64, f64)> {
            let of_step = |record: &Record| match record {
                Record::Step(step) => Some((step.step as f64 / steps_per_epoch, value(step))),
                Record::Epoch(_) => None,
            };
            self.records.iter().filter_map(of_step).collect()
        };
        let epochs = |value: fn(&EpochRecord) -> f64| -> Vec<(f64, f64)> {
            self.epoch_records().map(|epoch| (epoch.epoch as f64, value(epoch))).collect()
        };
        let x_end = self.epochs as f64;
        let charts = [
            Chart {
                title: "Loss",
                x_end,
                from_zero: false,
                as_percent: false,
                series: vec![
                    Series { name: "training, by step", class: "faint", points: steps(|s| s.loss) },
                    Series { name: "training", class: "train", points: epochs(|e| e.train_loss) },
                    Series { name: "held out", class: "held", points: epochs(|e| e.loss) },
                ],
            },
            Chart {
                title: "Accuracy",
                x_end,
                from_zero: false,
                as_percent: true,
                series: vec![
                    Series { name: "training, by step", class: "faint", points: steps(|s| s.accuracy) },
                    Series { name: "training", class: "train", points: epochs(|e| e.train_accuracy) },
                    Series { name: "held out, top-1", class: "held", points: epochs(|e| e.top1) },
                ],
            },
            Chart {
                title: "Learning rate",
                x_end,
                from_zero: true,
                as_percent: false,
                series: vec![Series { name: "by step", class: "train", points: steps(|s| s.lr) }],
            },
        ];
        let mut html = String::from("<section><h2>Curves</h2>\n<div class=\"charts\">\n");
        charts.iter().for_each(|chart| html.push_str(&chart.to_svg()));
        html + "</div>\n<p class=\"muted\">Training figures are of augmented images, in training mode, \
                averaged over the epoch.</p>\n</section>\n"
    }

    fn mistakes(&self) -> String {
        let mistakes = &self.evaluation.mistakes;
        let mut html = String::from("<section><h2>Worst mistakes</h2>\n");
        if mistakes.is_empty() {
            return html + "<p>None: every held-out image was classified correctly.</p></section>\n";
        }
        html += "<p class=\"muted\">Wrong answers given with the most confidence. Look here for wrong labels \
                 first.</p>\n<div class=\"mistakes\">\n";
        let name = |class: usize| {
            self.evaluation.classes.get(class).map(|score| escape(&score.class)).unwrap_or_default()
        };
        for mistake in mistakes {
            let file = self.images.name(mistake.index);
            let picture = match thumbnail::data_uri(self.images, mistake.index) {
                Some(uri) => format!("<img alt=\"\" src=\"{uri}\">"),
                None => "<div class=\"gone\">not readable</div>".to_owned(),
            };
            html += &format!(
                "<figure title=\"{}\">{picture}<figcaption><b>{}</b> <span class=\"muted\">{}</span><br>\
                 is <b>{}</b> <span class=\"muted\">{}</span></figcaption></figure>\n",
                escape(&file),
                name(mistake.predicted),
                percent(mistake.probability),
                name(mistake.label),
                percent(mistake.label_probability),
            );
        }
        html + "</div></section>\n"
    }

    fn classes(&self) -> String {
        let mut classes: Vec<_> = self.evaluation.classes.iter().collect();
        classes.sort_by(|a, b| a.recall.unwrap_or(2.0).total_cmp(&b.recall.unwrap_or(2.0)));
        let mut html = String::from(
            "<section><h2>Classes</h2>\n<div class=\"scroll\"><table class=\"plain\"><thead><tr><th>class</th>\
             <th class=\"n\">images</th><th class=\"n\">recall</th><th></th><th class=\"n\">precision</th>\
             <th></th></tr></thead><tbody>\n",
        );
        let cells = |share: Option<f64>| match share {
            Some(share) => format!(
                "<td class=\"n\">{}</td><td class=\"bar\"><i style=\"width:{:.1}%\"></i></td>",
                percent(share),
                100.0 * share
            ),
            None => "<td class=\"n\">–</td><td></td>".to_owned(),
        };
        for class in classes {
            html += &format!(
                "<tr><td>{}</td><td class=\"n\">{}</td>{}{}</tr>\n",
                escape(&class.class),
                thousands(class.count as u64),
                cells(class.recall),
                cells(class.precision)
            );
        }
        html + "</tbody></table></div></section>\n"
    }

    fn epochs(&self) -> String {
        let mut html = String::from(
            "<section><h2>Epochs</h2>\n<div class=\"scroll\"><table class=\"plain\"><thead><tr>\
             <th class=\"n\">epoch</th><th class=\"n\">lr</th><th class=\"n\">training loss</th>\
             <th class=\"n\">training accuracy</th><th class=\"n\">held-out loss</th><th class=\"n\">top-1</th>\
             <th class=\"n\">top-5</th><th class=\"n\">images/s</th><th class=\"n\">time</th></tr></thead><tbody>\n",
        );
        for e in self.epoch_records() {
            let class = if e.epoch == self.best.epoch { " class=\"best\"" } else { "" };
            html += &format!(
                "<tr{class}><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.4}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{:.4}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{:.0}</td><td class=\"n\">{}</td></tr>\n",
                e.epoch,
                rate(e.lr),
                e.train_loss,
                percent(e.train_accuracy),
                e.loss,
                percent(e.top1),
                percent(e.top5),
                e.images_per_second,
                duration(e.seconds)
            );
        }
        html + "</tbody></table></div></section>\n"
    }

    fn recipe(&self) -> Result<String> {
        let mut html = String::from("<section><h2>Recipe</h2>\n");
        if !self.choices.is_empty() {
            html += "<p>Chosen for this data:</p>\n<ul>\n";
            self.choices.iter().for_each(|line| html += &format!("<li>{}</li>\n", escape(line)));
            html += "</ul>\n";
        }
        html += &format!(
            "<details><summary>recipe.toml</summary><pre>{}</pre></details></section>\n",
            escape(&self.recipe.to_toml()?)
        );
        Ok(html)
    }
}

fn unformatted(error: std::fmt::Error) -> Error {
    Error::Run { path: "report.html".into(), problem: error.to_string() }
}

/// Text for HTML, in elements and in quoted attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn percent(share: f64) -> String {
    format!("{:.2}\u{202f}%", 100.0 * share)
}

/// A learning rate in at most three digits.
fn rate(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e3).contains(&value) { format!("{value:.2e}") } else { format!("{value:.4}") }
}

/// `1234567` as `1 234 567`, with narrow spaces.
fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// `4231976` as `4.23 M`.
fn magnitude(value: u64) -> String {
    match value as f64 {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e3 => format!("{:.1} k", v / 1e3),
        v => format!("{v}"),
    }
}

/// Seconds as `7.5 s`, `12:05` or `1:02:03`.
fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let s = seconds.round() as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, m, s) => format!("{m}:{s:02} min"),
        (h, m, s) => format!("{h}:{m:02}:{s:02} h"),
    }
}
