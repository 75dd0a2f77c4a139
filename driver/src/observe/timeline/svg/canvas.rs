//! SVG elements as text. Everything that comes from outside passes through [`escape`] here and nowhere else.

use std::fmt::Write as _;

use crate::observe::plain::printable;

/// Text made safe for HTML and SVG, in content and in attributes.
pub(in super::super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
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

/// Estimated width of a text of the drawing's small size.
#[allow(clippy::cast_precision_loss, reason = "pixels")]
pub(super) fn width_of(text: &str) -> f64 {
    text.chars().count() as f64 * 6.1
}

/// Where a text is anchored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A rectangle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub height: f64,
}

impl Area {
    /// At least `least` wide, so that what is short is still seen.
    pub fn at_least(self, least: f64) -> Self {
        Self { right: self.right.max(self.left + least), ..self }
    }

    pub fn width(self) -> f64 {
        (self.right - self.left).max(0.0)
    }
}

/// Grows an SVG document.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    body: String,
}

// Writing to a String cannot fail, so the results of `write!` are dropped here.
impl Canvas {
    pub fn bar(&mut self, class: &str, area: Area, tooltip: &str) {
        let Area { left, top, height, .. } = area;
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{left:.2}" y="{top:.2}" width="{:.2}" height="{height:.2}" rx="2"><title>{}</title></rect>"#,
            area.width(),
            escape(tooltip)
        );
    }

    pub fn plain_bar(&mut self, class: &str, area: Area) {
        let Area { left, top, height, .. } = area;
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{left:.2}" y="{top:.2}" width="{:.2}" height="{height:.2}"/>"#,
            area.width()
        );
    }

    pub fn text(&mut self, class: &str, x: f64, y: f64, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(
            self.body,
            r#"<text class="{class}" x="{x:.2}" y="{y:.2}" text-anchor="{anchor}">{}</text>"#,
            escape(text)
        );
    }

    /// A name that was shortened, with the whole of it as tooltip.
    pub fn name(&mut self, class: &str, x: f64, y: f64, limit: usize, name: &str) {
        let _ = write!(
            self.body,
            r#"<text class="{class}" x="{x:.2}" y="{y:.2}">{}<title>{}</title></text>"#,
            escape(&crate::observe::plain::shortened(name, limit)),
            escape(name)
        );
    }

    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = write!(
            self.body,
            r#"<line class="{class}" x1="{:.2}" y1="{:.2}" x2="{:.2}" y2="{:.2}"/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    pub fn polygon(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect();
        let _ = write!(self.body, r#"<polygon class="{class}" points="{}"/>"#, points.join(" "));
    }

    pub fn finish(self, width: f64, height: f64, label: &str) -> String {
        format!(
            r#"<svg viewBox="0 0 {width:.0} {height:.0}" role="img" aria-label="{}" xmlns="http://www.w3.org/2000/svg">{}</svg>"#,
            escape(label),
            self.body
        )
    }
}
