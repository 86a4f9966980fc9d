//! The confusion matrix: a coloured table, or a picture when there are many classes.

use super::{escape, percent, thousands, thumbnail};
use crate::evaluation::Evaluation;

/// The most classes that a table with numbers is made for.
const TABLE: usize = 32;

/// How many of the most confused pairs are listed.
const PAIRS: usize = 20;

/// The section of the report.
pub(super) fn section(evaluation: &Evaluation) -> String {
    let matrix = if evaluation.classes.len() <= TABLE { table(evaluation) } else { picture(evaluation) };
    format!(
        "<section><h2>Confusion</h2>\n<div class=\"two\">\n<div class=\"scroll\">{matrix}</div>\n\
         <div>{}</div>\n</div></section>\n",
        pairs(evaluation)
    )
}

/// How strongly a cell is coloured, from its share of its row: small shares stay visible.
fn strength(count: u32, row_total: usize) -> f64 {
    if count == 0 { 0.0 } else { 0.08 + 0.82 * (f64::from(count) / row_total.max(1) as f64).sqrt() }
}

fn table(evaluation: &Evaluation) -> String {
    let mut html = String::from("<table class=\"confusion\"><thead><tr><th></th>");
    for class in &evaluation.classes {
        html += &format!("<th title=\"{0}\"><span>{0}</span></th>", escape(&class.class));
    }
    html += "</tr></thead><tbody>\n";
    for (label, (row, class)) in evaluation.confusion.iter().zip(&evaluation.classes).enumerate() {
        let name = escape(&class.class);
        html += &format!("<tr><th title=\"{name}\">{name}</th>");
        for (predicted, &count) in row.iter().enumerate() {
            if count == 0 {
                html += "<td class=\"zero\">0</td>";
                continue;
            }
            let strength = strength(count, class.count);
            let hue = if predicted == label { "good" } else { "bad" };
            // Dark cells are the same in both themes, so they take white text.
            let ink = if strength > 0.62 { ";color:#fff" } else { "" };
            html += &format!(
                "<td style=\"background:rgba(var(--{hue}),{strength:.2}){ink}\" title=\"{name} taken for {}: {} of {}\">{count}</td>",
                escape(&evaluation.classes[predicted].class),
                count,
                class.count
            );
        }
        html += "</tr>\n";
    }
    html + "</tbody></table><p class=\"muted\">A row for what an image is, a column for what it was taken for.</p>"
}

fn picture(evaluation: &Evaluation) -> String {
    let classes = evaluation.classes.len();
    let mut pixels = Vec::with_capacity(3 * classes * classes);
    for (label, (row, class)) in evaluation.confusion.iter().zip(&evaluation.classes).enumerate() {
        for (predicted, &count) in row.iter().enumerate() {
            let strength = strength(count, class.count);
            let full = if predicted == label { [90.0, 160.0, 255.0] } else { [255.0, 140.0, 70.0] };
            pixels.extend(full.map(|c: f64| (18.0 + (c - 18.0) * strength) as u8));
        }
    }
    match thumbnail::png(classes, classes, 3, &pixels) {
        Some(uri) => format!(
            "<img class=\"heat\" alt=\"Confusion matrix\" src=\"{uri}\"><p class=\"muted\">{classes} classes: a row for \
             what an image is, a column for what it was taken for.</p>"
        ),
        None => String::new(),
    }
}

fn pairs(evaluation: &Evaluation) -> String {
    let mut pairs: Vec<(u32, usize, usize)> = Vec::new();
    for (label, row) in evaluation.confusion.iter().enumerate() {
        for (predicted, &count) in row.iter().enumerate() {
            if count > 0 && label != predicted {
                pairs.push((count, label, predicted));
            }
        }
    }
    pairs.sort_by_key(|&(count, label, predicted)| (std::cmp::Reverse(count), label, predicted));
    let mut html = String::from(
        "<table class=\"plain\"><thead><tr><th>is</th><th>taken for</th><th class=\"n\">images</th>\
         <th class=\"n\">of its class</th></tr></thead><tbody>\n",
    );
    for &(count, label, predicted) in pairs.iter().take(PAIRS.min(evaluation.classes.len().max(8))) {
        let (is, taken) = (&evaluation.classes[label], &evaluation.classes[predicted]);
        html += &format!(
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
            escape(&is.class),
            escape(&taken.class),
            thousands(u64::from(count)),
            percent(f64::from(count) / is.count.max(1) as f64)
        );
    }
    html + "</tbody></table>"
}
