// SPDX-License-Identifier: Apache-2.0
// A browser starts no worker from the disk. There, the script of the search runs in a hidden frame instead.
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      frame.srcdoc =
        "<script>postMessage = (data) => frameElement.answer(data)</script>" + `<script src="${url}"></script>`
      this.started = new Promise((resolve) => frame.addEventListener("load", resolve)).then(() => frame.contentWindow)
      document.body.append(frame)
    }

    postMessage(data) {
      this.started.then((frame) => frame.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {}
  }
