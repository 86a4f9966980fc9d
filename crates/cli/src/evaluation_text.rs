//! An evaluation for people: the figures, the classes, what is taken for what.

use std::io::{self, Write};

use mobilenet_train::Evaluation;

use crate::style::{Align, FAINT, STRONG, Table, grouped, percent};

/// Up to this many classes, the whole confusion matrix fits a screen.
const MATRIX_CLASSES: usize = 12;
/// So many of the commonest confusions are listed for more classes.
const CONFUSIONS: usize = 10;
/// So many of the worst classes are listed when there are many.
const WORST_CLASSES: usize = 20;

/// Writes everything.
pub fn write(out: &mut dyn Write, evaluation: &Evaluation) -> io::Result<()> {
    let e = evaluation;
    writeln!(
        out,
        "{STRONG}top-1 {}{STRONG:#}   top-5 {}   loss {:.4}",
        percent(e.top1),
        percent(e.top5),
        e.loss
    )?;
    let rate = e.count as f64 / e.seconds.max(1e-9);
    writeln!(out, "{FAINT}{} images, {} images/s{FAINT:#}", grouped(e.count as u64), grouped(rate as u64))?;
    classes(out, e)?;
    if e.classes.len() <= MATRIX_CLASSES { matrix(out, e) } else { confusions(out, e) }
}

fn classes(out: &mut dyn Write, e: &Evaluation) -> io::Result<()> {
    let mut scores: Vec<_> =
        e.classes.iter().filter(|score| score.count > 0 || score.predicted > 0).collect();
    let all = scores.len();
    if all > WORST_CLASSES {
        scores.sort_by(|a, b| a.recall.unwrap_or(1.0).total_cmp(&b.recall.unwrap_or(1.0)));
        scores.truncate(WORST_CLASSES);
    }
    writeln!(out)?;
    let mut table = Table::new(&[
        ("class", Align::Left),
        ("images", Align::Right),
        ("precision", Align::Right),
        ("recall", Align::Right),
    ]);
    let share = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), percent);
    for score in &scores {
        table.row(vec![
            score.class.clone(),
            grouped(score.count as u64),
            share(score.precision),
            share(score.recall),
        ]);
    }
    table.write(out)?;
    if all > scores.len() {
        writeln!(out, "{FAINT}(the {} of {all} classes with the lowest recall){FAINT:#}", scores.len())?;
    }
    Ok(())
}

/// Rows are what images are, columns what they were taken for, by number.
fn matrix(out: &mut dyn Write, e: &Evaluation) -> io::Result<()> {
    const NUMBERS: [&str; MATRIX_CLASSES] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];
    let mut columns = vec![("is \\ taken for", Align::Left)];
    columns.extend(NUMBERS.iter().take(e.classes.len()).map(|number| (*number, Align::Right)));
    let mut table = Table::new(&columns);
    for (number, (score, row)) in NUMBERS.iter().zip(e.classes.iter().zip(&e.confusion)) {
        let mut cells = vec![format!("{number:>2} {}", score.class)];
        cells.extend(row.iter().map(|&n| if n == 0 { "·".to_owned() } else { n.to_string() }));
        table.row(cells);
    }
    writeln!(out)?;
    table.write(out)
}

fn confusions(out: &mut dyn Write, e: &Evaluation) -> io::Result<()> {
    let mut pairs = Vec::new();
    for (label, row) in e.confusion.iter().enumerate() {
        for (predicted, &count) in row.iter().enumerate() {
            if label != predicted && count > 0 {
                pairs.push((count, label, predicted));
            }
        }
    }
    pairs.sort_by_key(|&(count, label, predicted)| (std::cmp::Reverse(count), label, predicted));
    if pairs.is_empty() {
        return Ok(());
    }
    let mut table =
        Table::new(&[("images of", Align::Left), ("taken for", Align::Left), ("times", Align::Right)]);
    for (count, label, predicted) in pairs.into_iter().take(CONFUSIONS) {
        let name = |class: usize| e.classes.get(class).map_or_else(String::new, |score| score.class.clone());
        table.row(vec![name(label), name(predicted), grouped(u64::from(count))]);
    }
    writeln!(out)?;
    table.write(out)
}
