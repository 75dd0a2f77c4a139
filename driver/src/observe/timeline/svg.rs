//! The picture itself: one SVG with two scales. On top an overview of the whole run (commands in pods take
//! seconds), below it the window of the cut enlarged (holds take milliseconds), joined by a wedge that shows
//! which part was enlarged. Colours are CSS classes; `style.css` gives them for light and dark.

mod canvas;
mod overview;
mod window;

use super::Picture;
use canvas::Canvas;
pub(super) use canvas::escape;

/// Width of the drawing in its own units.
const WIDTH: f64 = 1180.0;
/// Names stand left of this.
const PLOT_LEFT: f64 = 236.0;
/// Right end of the overview.
const OVERVIEW_RIGHT: f64 = 1164.0;
/// Right end of the enlarged window; its figures stand right of it.
const WINDOW_RIGHT: f64 = 856.0;
/// Height of the wedge between the two.
const WEDGE: f64 = 44.0;

/// The whole drawing.
pub(super) fn draw(picture: &Picture) -> String {
    let mut canvas = Canvas::default();
    let zoom = window::range(picture);
    let (bottom, from, to) = overview::draw(&mut canvas, picture, zoom);
    canvas.polygon(
        "wedge",
        &[(from, bottom), (to, bottom), (WINDOW_RIGHT, bottom + WEDGE), (PLOT_LEFT, bottom + WEDGE)],
    );
    let end = window::draw(&mut canvas, picture, zoom, bottom + WEDGE);
    canvas.finish(WIDTH, end + 12.0, &format!("Timeline of cut {}", picture.name))
}
