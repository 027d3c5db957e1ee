// The last picture of a <video>, on a <canvas> that lies over it: shown while the video has none of
// its own. Without it a track that ends leaves black, and one that begins is preceded by nothing.
//
// Knows no room: it is told of each frame, and when the picture is about to be another or none.

const BLANK_PIXELS = 16; // LiveKit's server ends a track with black frames of 8 × 8

export class LastPicture {
  #video;
  #canvas;
  #context;
  #frame = null; // a VideoFrame: costs nothing to have, only to draw
  #drawn = false; // there is something on the canvas

  /** True: the canvas shows each frame at once, so that not even the first black one is seen. */
  closely = false;

  /**
   * @param {HTMLVideoElement} video
   * @param {HTMLCanvasElement} canvas of the video's size and place, above it
   */
  constructor(video, canvas) {
    this.#video = video;
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    canvas.style.visibility = "hidden"; // not `hidden`: its style must not begin anew each time
  }

  /**
   * Note a frame that the video shows now.
   *
   * @param {{width: number, height: number}} size what requestVideoFrameCallback tells
   * @returns {boolean} false: that is no picture
   */
  take({ width, height }) {
    if (isBlank(width, height) || !this.#note(width, height)) {
      this.keep();
      return false;
    }
    if (this.closely) this.keep();
    else this.#canvas.style.visibility = "hidden";
    return true;
  }

  /** Have the picture ready; false: the video has gone on to something that is none. */
  #note(width, height) {
    if (this.#video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return false;
    if (globalThis.VideoFrame === undefined) {
      this.#draw(this.#video, width, height); // an old browser
      return true;
    }
    const frame = new VideoFrame(this.#video);
    if (isBlank(frame.displayWidth, frame.displayHeight)) {
      frame.close();
      return false;
    }
    this.#frame?.close();
    this.#frame = frame;
    return true;
  }

  /** Show the last picture until there is another one; without one, nothing. */
  keep() {
    if (this.#frame !== null) {
      const { displayWidth, displayHeight } = this.#frame;
      this.#draw(this.#frame, displayWidth, displayHeight);
      this.#frame.close();
      this.#frame = null;
    }
    if (this.#drawn) this.#canvas.style.visibility = "inherit";
  }

  #draw(picture, width, height) {
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
    }
    this.#context.drawImage(picture, 0, 0, width, height);
    this.#drawn = true;
  }
}

function isBlank(width, height) {
  return Math.min(width, height) <= BLANK_PIXELS;
}
