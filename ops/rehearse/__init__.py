"""A rolling deployment, rehearsed: all workers are replaced under load, one after the other, and nobody loses anything.

    make rehearse                          four workers, 500 streams in flight; new workers start first
    make rehearse WORKERS=8 STREAMS=1000
    make rehearse SURGE=0                  the old worker leaves before its successor starts

It is the show `rolling` (`ops/shows`), of any size, with the figures that a deployment is judged by. Producers go on
enqueuing and subscribers following; one stream in 25 takes longer than a worker that leaves may take, and is handed
back.
"""
