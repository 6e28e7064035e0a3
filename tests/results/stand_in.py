"""A training script in the place of the real ones: takes their flags, writes their log and checkpoint, learns nothing.

Every epoch adds a line to the file that $STAND_IN_JOURNAL names, with its process and its times, so that a test can
see what was done, how often, and what was done at the same time.

With --fold alone it scores test and held-out classes, and writes a model. With --validate-only it scores held-out
classes, the better the nearer --lr is to 0.002. $STAND_IN_LIMIT, as 0.005:1,
says from which --lr on it ends with that exit status: 1 after it has logged that it diverged.
"""
import argparse
import json
import math
import os
import signal
import sys
import time


def main():
    script = os.path.basename(sys.argv[0])
    parser = argparse.ArgumentParser()
    for flag in ('--dataset', '--model', '--logfile', '--save-model-prefix', '--loss', '--gpus', '--data-path',
                 '--fold', '--steps'):
        parser.add_argument(flag)
    parser.add_argument('--load-checkpoint', action='store_true')
    for flag in ('--use-crops', '--validate-only', '--no-nmi', '--skip-pretrain-validation', '--normalize'):
        parser.add_argument(flag, action='store_true')
    for flag, default in (('--lr', 0.001), ('--margin', 0.2), ('--beta', 1.2), ('--embedding-multiplier', 3.0),
                          ('--epsilon', 0.01)):
        parser.add_argument(flag, type=float, default=default)
    for flag in ('--seed', '--number-of-runs', '--epochs', '--embed-dim', '--image-size', '--eval-every',
                 '--batches-per-epoch', '--batch-k', '--batch-size'):
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
    limit, code = os.environ.get('STAND_IN_LIMIT', 'inf:0').split(':')
    if opt.lr > float(limit) and code == '2':
        print('refused', file=sys.stderr)
        sys.exit(2)
    value = 60.0 - 20.0 * abs(math.log10(opt.lr / 0.002)) - 5.0 * int((opt.fold or '1/1').split('/')[0])

    def scores(recall):
        if opt.fold and not opt.validate_only:      # held-out classes choose the epoch before the last
            number = int(opt.fold.split('/')[0])
            return {'recall@1': recall + number, 'map@r': 5.0, 'embedding_size': 64,
                    'val': {'recall@1': 50.0 - abs(recall - 10.0 * (opt.epochs - 1))}}
        return {'val': {'recall@1': recall}} if opt.validate_only else {'recall@1': recall}

    os.makedirs(os.path.dirname(opt.logfile), exist_ok=True)
    os.makedirs(os.path.dirname(checkpoint), exist_ok=True)
    with open(opt.logfile, 'a') as log:
        def say(event, **fields):
            log.write(json.dumps(dict(fields, event=event, id=identity)) + '\n')
            log.flush()

        if not opt.load_checkpoint:
            say('config', algorithm=script[6:-3], script=script, dataset=opt.dataset, model=opt.model, seed=opt.seed,
                flags=vars(opt), runs=1, git='0123456789ab')
            if not opt.skip_pretrain_validation and opt.validate_only:
                say('epoch', run=1, epoch=0, **scores(7.0))
        if opt.lr > float(limit):
            say('diverged', run=1, epoch=begun, batch=1)
            sys.exit(int(code))
        for epoch in range(begun, opt.epochs + 1):
            start = time.time()
            time.sleep(float(os.environ.get('STAND_IN_SECONDS', '0.01')))
            reached = value + epoch - opt.epochs if opt.validate_only else 10.0 * epoch
            say('epoch', run=1, epoch=epoch, seconds=1.0, **scores(reached))
            with open(checkpoint + '.tmp', 'w') as file:
                json.dump({'id': identity, 'epoch': epoch}, file)
            os.replace(checkpoint + '.tmp', checkpoint)
            with open(os.environ['STAND_IN_JOURNAL'], 'a') as file:
                file.write(json.dumps([opt.logfile, epoch, os.getpid(), start, time.time(), opt.gpus]) + '\n')
            if stopped:
                sys.exit(130)
        last = {'epoch': opt.epochs, **scores(value if opt.validate_only else 10.0 * opt.epochs)}
        chosen = {'last': last, 'best-on-val' if opt.validate_only else 'best-on-test': last}
        if opt.fold and not opt.validate_only:
            chosen['best-on-val'] = {'epoch': opt.epochs - 1, **scores(10.0 * (opt.epochs - 1))}
            with open(opt.save_model_prefix + '-best.params', 'w'):
                pass
        say('run_end', run=1, seed=opt.seed, seconds=1.0, images_seen=100 * opt.epochs, **chosen)
        say('summary', runs=1)


if __name__ == '__main__':
    main()
