//! Line charts as SVG.

use std::fmt::Write;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

/// The most points that a line is drawn with.
const POINTS: usize = 600;

/// One line of a chart.
pub(super) struct Series {
    /// Its name in the legend.
    pub name: &'static str,
    /// Its class in the style sheet: `train`, `held` or `faint`.
    pub class: &'static str,
    /// x in epochs, y.
    pub points: Vec<(f64, f64)>,
}

/// A line chart over the epochs.
pub(super) struct Chart {
    /// Its heading.
    pub title: &'static str,
    /// The right end of the x axis, in epochs; it begins at 0.
    pub x_end: f64,
    /// Whether the y axis must begin at 0.
    pub from_zero: bool,
    /// Whether y is a share, shown as a percentage.
    pub as_percent: bool,
    /// The lines, the first at the bottom.
    pub series: Vec<Series>,
}

impl Chart {
    /// The chart with its heading and legend.
    pub(super) fn to_svg(&self) -> String {
        let (low, high, ticks) = self.y_axis();
        let x = |value: f64| LEFT + value / self.x_end.max(1e-9) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| TOP + (high - value.clamp(low, high)) / (high - low) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!("<div class=\"chart\"><h3>{}</h3><div class=\"legend\">", self.title);
        for series in self.series.iter().filter(|series| !series.points.is_empty()) {
            svg += &format!("<span><i class=\"{}\"></i>{}</span>", series.class, series.name);
        }
        svg += &format!(
            "</div>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} by epoch\">\n",
            self.title
        );
        for tick in ticks {
            let label =
                if self.as_percent { format!("{}", Short(100.0 * tick)) } else { format!("{}", Short(tick)) };
            let unit = if self.as_percent { " %" } else { "" };
            svg += &format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}{unit}</text>\n",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y(tick) + 4.0,
                y = y(tick),
            );
        }
        let step = nice_step(self.x_end, 6.0).max(1.0);
        let mut tick = 0.0;
        while tick <= self.x_end + 1e-9 {
            let anchor = if x(tick) > WIDTH - RIGHT - 8.0 { "end" } else { "middle" };
            svg += &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{tick}</text>\n",
                x(tick),
                HEIGHT - 8.0
            );
            tick += step;
        }
        for series in &self.series {
            svg.push_str("<polyline class=\"");
            svg.push_str(series.class);
            svg.push_str("\" points=\"");
            for (px, py) in thinned(&series.points) {
                // Writing to a string cannot fail.
                let _ = write!(svg, "{:.1},{:.1} ", x(px), y(py));
            }
            svg.push_str("\"/>\n");
            if series.class != "faint" && series.points.len() <= 60 {
                for &(px, py) in &series.points {
                    let value =
                        if self.as_percent { format!("{:.2} %", 100.0 * py) } else { format!("{py:.4}") };
                    let _ = writeln!(
                        svg,
                        "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.4\"><title>epoch {}, {}: {value}\
                         </title></circle>",
                        series.class,
                        x(px),
                        y(py),
                        Short(px),
                        series.name
                    );
                }
            }
        }
        svg + "</svg></div>\n"
    }

    /// Bottom, top and ticks. A few outliers, such as the held-out loss before the running
    /// statistics have settled, do not squeeze the rest: they are drawn at the edge.
    fn y_axis(&self) -> (f64, f64, Vec<f64>) {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let mut limit = f64::INFINITY;
        for series in &self.series {
            let finite = series.points.iter().map(|point| point.1).filter(|value| value.is_finite());
            let mut values: Vec<f64> = finite.collect();
            values.sort_unstable_by(f64::total_cmp);
            let cut = if series.class == "faint" { values.len() / 50 } else { 0 };
            let kept = &values[cut..values.len() - cut];
            if let (Some(first), Some(last)) = (kept.first(), kept.last()) {
                low = low.min(*first);
                high = high.max(last.min(limit));
                if series.class != "held" && !self.as_percent {
                    limit = 1.5 * high;
                }
            }
        }
        if high < low {
            (low, high) = (0.0, 1.0);
        }
        if self.from_zero {
            low = low.min(0.0);
        }
        if high - low < 1e-12 {
            high = low + 1e-12_f64.max(low.abs() * 0.1);
        }
        let step = nice_step(high - low, 5.0);
        let (mut bottom, top) = ((low / step).floor() * step, (high / step).ceil() * step);
        if low >= 0.0 {
            bottom = bottom.max(0.0);
        }
        let count = ((top - bottom) / step).round() as usize;
        (bottom, top, (0..=count).map(|i| bottom + i as f64 * step).collect())
    }
}

/// A step of 1, 2 or 5 times a power of ten that divides `range` in about `parts`.
fn nice_step(range: f64, parts: f64) -> f64 {
    let raw = range / parts;
    let power = 10f64.powf(raw.log10().floor());
    let factor = raw / power;
    let nice = [1.0, 2.0, 5.0].into_iter().find(|&nice| factor <= nice * 1.2).unwrap_or(10.0);
    nice * power
}

/// At most [`POINTS`] points, each the mean of its neighbours.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        let (x, y) = chunk.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0, y + p.1));
        (x / n, y / n)
    };
    points.chunks(size).map(mean).collect()
}

/// A number without the noise of its last digits.
struct Short(f64);

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 != 0.0 && self.0.abs() < 1e-3 {
            return write!(f, "{:.0e}", self.0);
        }
        let text = format!("{:.4}", self.0);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_nice() {
        for (range, parts, step) in [(1.0, 5.0, 0.2), (0.9, 5.0, 0.2), (30.0, 6.0, 5.0), (7.0, 6.0, 1.0)] {
            assert!((nice_step(range, parts) - step).abs() < 1e-12, "{range}");
        }
    }

    #[test]
    fn an_outlier_of_the_held_out_loss_is_cut_off() {
        let series = |name, class, values: &[f64]| Series {
            name,
            class,
            points: values.iter().enumerate().map(|(i, &y)| (i as f64, y)).collect(),
        };
        let series = vec![series("t", "train", &[2.0, 1.0, 0.5]), series("h", "held", &[40.0, 1.1, 0.4])];
        let chart = Chart { title: "T", x_end: 3.0, from_zero: false, as_percent: false, series };
        assert!((2.0..=4.0).contains(&chart.y_axis().1));
    }

    #[test]
    fn draws_anything() {
        for points in [vec![], vec![(1.0, 0.5)], vec![(1.0, 0.5), (2.0, 0.5)], vec![(0.0, f64::NAN); 3000]] {
            let series = vec![Series { name: "a", class: "train", points }];
            let chart = Chart { title: "T", x_end: 3.0, from_zero: true, as_percent: true, series };
            let svg = chart.to_svg();
            assert!(svg.contains("<polyline") && svg.len() < 40_000);
        }
    }
}
