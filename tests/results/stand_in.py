"""A training script in the place of the real ones: takes their flags, writes their log and checkpoint, learns nothing.

Every epoch adds a line to the file that $STAND_IN_JOURNAL names, with its process and its times, so that a test can
see what was done, how often, and what was done at the same time.
"""
import argparse
import json
import os
import signal
import sys
import time


def main():
    script = os.path.basename(sys.argv[0])
    parser = argparse.ArgumentParser()
    for flag in ('--dataset', '--model', '--logfile', '--save-model-prefix', '--loss', '--gpus', '--data-path'):
        parser.add_argument(flag)
    parser.add_argument('--load-checkpoint', action='store_true')
    parser.add_argument('--use-crops', action='store_true')
    parser.add_argument('--lr', type=float, default=0.001)
    for flag in ('--seed', '--number-of-runs', '--epochs', '--embed-dim', '--image-size'):
        parser.add_argument(flag, type=int, default=1)
    opt = parser.parse_args()
    print(f'{script}: training', flush=True)
    stopped = []
    signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
    identity, begun = f'{script}-{opt.loss}-{opt.seed}-{opt.embed_dim}-{opt.lr}-{time.time()}', 1
    checkpoint = opt.save_model_prefix + '.ckpt.npz'
    if opt.load_checkpoint:
        with open(checkpoint) as file:
            saved = json.load(file)
        identity, begun = saved['id'], saved['epoch'] + 1
    if f'{script} {opt.seed}' in os.environ.get('STAND_IN_FAILS', '').split(';'):
        print('the last words of a broken run', file=sys.stderr)
        sys.exit(3)
    os.makedirs(os.path.dirname(opt.logfile), exist_ok=True)
    os.makedirs(os.path.dirname(checkpoint), exist_ok=True)
    with open(opt.logfile, 'a') as log:
        def say(event, **fields):
            log.write(json.dumps(dict(fields, event=event, id=identity)) + '\n')
            log.flush()

        if not opt.load_checkpoint:
            say('config', algorithm=script[6:-3], script=script, dataset=opt.dataset, model=opt.model, seed=opt.seed,
                flags=vars(opt), runs=1)
        for epoch in range(begun, opt.epochs + 1):
            start = time.time()
            time.sleep(float(os.environ.get('STAND_IN_SECONDS', '0.01')))
            say('epoch', run=1, epoch=epoch, **{'recall@1': 10.0 * epoch, 'seconds': 1.0})
            with open(checkpoint + '.tmp', 'w') as file:
                json.dump({'id': identity, 'epoch': epoch}, file)
            os.replace(checkpoint + '.tmp', checkpoint)
            with open(os.environ['STAND_IN_JOURNAL'], 'a') as file:
                file.write(json.dumps([opt.logfile, epoch, os.getpid(), start, time.time(), opt.gpus]) + '\n')
            if stopped:
                sys.exit(130)
        last = {'recall@1': 10.0 * opt.epochs, 'epoch': opt.epochs}
        say('run_end', run=1, seed=opt.seed, seconds=1.0, **{'best-on-test': last, 'last': last})
        say('summary', runs=1)


if __name__ == '__main__':
    main()
