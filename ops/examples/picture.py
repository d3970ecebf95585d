"""Uploads a picture, asks a model about it by its file id, and deletes it.

    python picture.py picture.jpg "What is in this image?" [model]

Needs deltabus, and a worker whose provider has files. Where its chat knows no file ids, the worker puts the
picture itself into the message.
"""

import sys

from deltabus import Bus


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit('usage: python picture.py picture.jpg "What is in this image?" [model]')
    path, question, model = [*sys.argv[1:], None][:3]
    with Bus() as bus:
        file_id = bus.upload(path, purpose="user_data").result()["id"]
        try:
            content = [{"type": "input_image", "file_id": file_id}, {"type": "input_text", "text": question}]
            for piece in bus.chat(messages=[{"role": "user", "content": content}], model=model).text():
                print(piece, end="", flush=True)
            print()
        finally:
            bus.delete_file(file_id).result()


if __name__ == "__main__":
    main()
