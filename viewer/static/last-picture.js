// Keeps the last frame of a <video> on a <canvas> above it, and shows it while the video has none.
// Without it, the page is black between the end of one track and the first frame of the next.
//
// Knows no room: the page passes it each frame, and calls `keep` before the picture changes.

const BLANK_PIXELS = 16; // LiveKit's server ends a track with black frames of 8 × 8 pixels

export class LastPicture {
  #video;
  #canvas;
  #context;
  #frame = null; // a VideoFrame: cheap to hold, costly to draw
  #drawn = false; // the canvas has a picture

  /** True: draw every frame to the canvas, so that not even one black frame is visible. */
  closely = false;

  /**
   * @param {HTMLVideoElement} video
   * @param {HTMLCanvasElement} canvas above the video, of the same size
   */
  constructor(video, canvas) {
    this.#video = video;
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    canvas.style.visibility = "hidden"; // not `hidden`, which would restart its CSS transition
  }

  /**
   * Keep a frame that the video shows now.
   *
   * @param {{width: number, height: number}} size from requestVideoFrameCallback
   * @returns {boolean} false: the frame is blank
   */
  take({ width, height }) {
    if (isBlank(width, height) || !this.#store(width, height)) {
      this.keep();
      return false;
    }
    if (this.closely) this.keep();
    else this.#canvas.style.visibility = "hidden";
    return true;
  }

  /** Store the frame; false: the video already shows a blank one. */
  #store(width, height) {
    if (this.#video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return false;
    if (globalThis.VideoFrame === undefined) {
      this.#draw(this.#video, width, height); // a browser without VideoFrame
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

  /** Show the last picture, if there is one, until the next frame. */
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
